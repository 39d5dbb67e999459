-- The feature panel as one would write it for DuckDB: the features and labels of churn_assets/churn under the shipped
-- policy (observation 60 days, eligibility and outcome 30, crisis 45 minutes). Dates are day numbers since 1970.
-- Day 4 was a Monday.
create macro mondays_observing(day) as range(
    greatest($first, day + 1 + ((3 - day) % 7 + 7) % 7), least($last, day + 60) + 1, 7
);

copy (
    with silver as (
        select
            *,
            datediff('day', date '1970-01-01', ordered_at::date) as ordered_on,
            datediff('day', date '1970-01-01', delivered_at::date) as delivered_on,
            datediff('day', date '1970-01-01', reviewed_at::date) as reviewed_on,
            epoch_us(ordered_at) as ordered_us,
            epoch_us(reviewed_at) as reviewed_us,
            epoch_us(delivered_at) as delivered_us,
            epoch_us(delivered_at) - epoch_us(promised_at) as delay_us
        from read_parquet($silver)
    ),
    -- With every order how late the deliveries were of the 30 days that end with its day.
    waited as (
        select *, coalesce(sum(late_us) over lately, 0) as waited_us
        from (
            select *, (ordered_on + 1) * 86400e6::bigint as at_us, null::bigint as late_us from silver
            union all by name
            select customer_id, delivered_us as at_us, delay_us as late_us from silver where delay_us > 0
        )
        window lately as (
            partition by customer_id order by at_us range between 30 * 86400e6::bigint preceding and 1 preceding
        )
        qualify ordered_us is not null
    ),
    gaps as (
        select *, ordered_us - lag(ordered_us) over (partition by customer_id order by ordered_us) as gap_us from waited
    ),
    orders as (
        select
            *,
            count(*) over so_far as orders_ever,
            min(ordered_us) over so_far as first_us,
            median(gap_us) over so_far / 86400e6 as median_gap_days,
            lead(ordered_us) over (partition by customer_id order by ordered_us) as next_us
        from gaps
        window so_far as (partition by customer_id order by ordered_us rows unbounded preceding)
    ),
    reviews as (
        select
            *,
            lag(reviewed_us) over in_time as previous_us,
            review_score - lag(review_score) over in_time as change
        from silver
        where reviewed_at is not null
        window in_time as (partition by customer_id order by reviewed_us, order_id)
    ),
    ordered as (
        select
            customer_id,
            as_of,
            count(*)::double as total_orders,
            max(ordered_us) as last_us,
            sum(subtotal::decimal(28, 10)) as spend,
            max(segment_index) as segment_index,
            arg_max(
                {'n': orders_ever, 'first': first_us, 'gap': median_gap_days, 'next': next_us, 'waited': waited_us},
                orders_ever
            ) as history
        from (
            select *, unnest(mondays_observing(ordered_on)) as as_of
            from orders
        )
        group by all
        having last_us >= (as_of - 30) * 86400e6::bigint
    ),
    delivered as (
        select
            customer_id,
            as_of,
            count(delay_us) as promised,
            count(*) filter (delay_us > 0) as late,
            bool_or(delay_us > 45 * 60e6::bigint) as is_crisis,
            sum(delay_us) filter (delay_us > 0 and delivered_us >= (as_of - 30) * 86400e6::bigint) as delay_us
        from (
            select *, unnest(mondays_observing(delivered_on)) as as_of
            from silver
            where delay_us is not null
        )
        group by all
    ),
    reviewed as (
        select
            customer_id,
            as_of,
            sum(review_score::decimal(20, 10))::double / count(*) as rating,
            min(change) filter (previous_us >= (as_of - 60) * 86400e6::bigint) as fall
        from (
            select *, unnest(mondays_observing(reviewed_on)) as as_of
            from reviews
        )
        group by all
    ),
    snapshots as (
        select *, as_of * 86400e6::bigint as as_of_us
        from ordered
        left join delivered using (customer_id, as_of)
        left join reviewed using (customer_id, as_of)
    )
    select
        customer_id,
        date '1970-01-01' + as_of::integer as as_of,
        total_orders,
        coalesce(
            rating,
            sum(rating::decimal(20, 12)) over snapshot::double / count(rating) over snapshot,
            3.0
        ) as avg_star_rating,
        coalesce(late / nullif(promised, 0), 0.0) as late_order_ratio,
        segment_index,
        coalesce(is_crisis, false)::double as crisis_exposure_index,
        coalesce(fall, 0.0) as sentiment_velocity,
        (
            100 * (1 + 5 * (rank() over (partition by as_of order by last_us desc) - 1) // count(*) over snapshot)
            + 10 * (5 - 5 * (rank() over (partition by as_of order by total_orders) - 1) // count(*) over snapshot)
            + (5 - 5 * (rank() over (partition by as_of order by spend) - 1) // count(*) over snapshot)
        )::double as rfm_score,
        (as_of_us - last_us) / 86400e6 as recency_days,
        (as_of_us - history.first) / 86400e6 as tenure_days,
        recency_days / greatest(coalesce(history.gap, median(history.gap) over snapshot, 30.0), 1.0) as gap_ratio,
        recency_days * history.n / tenure_days as missed_orders,
        coalesce(delay_us, 0) / 60e6 as recent_delay_minutes,
        history.n::double as orders_ever,
        history.waited / 60e6 as delay_minutes_at_last_order,
        case when as_of + 30 <= $watermark + 1
            then coalesce(history.next >= as_of_us + 30 * 86400e6::bigint, true)::double
        end as label
    from snapshots
    window snapshot as (partition by as_of)
) to $panel (format parquet, compression zstd);

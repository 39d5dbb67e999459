-- Silver orders of made-up customers over half a year, the same on any machine: every value is a hash of its row.
copy (
    with drawn as (
        select
            range as id,
            hash(range) % $customers as customer,
            -- Some order often, most seldom: the order's own customer moves towards 0.
            (hash(range, 'customer') % 1000000) / 1e6 as u,
            (hash(range, 'time') % 1000000) / 1e6 as moment,
            (hash(range, 'delay') % 1000000) / 1e6 as delay,
            (hash(range, 'spend') % 100000) / 1e5 as spend,
            hash(range, 'review') % 100 as review,
            (hash(range, 'hours') % 1000000) / 1e6 as hours
        from range($orders)
    ),
    timed as (
        select
            *,
            printf('C%08d', (customer * sqrt(u))::bigint) as customer_id,
            timestamp '2025-01-06' + to_microseconds((moment * 182 * 86400e6)::bigint) as ordered_at
        from drawn
    )
    select
        printf('O%010d', id) as order_id,
        customer_id,
        ordered_at::timestamptz as ordered_at,
        (ordered_at + interval 40 minute)::timestamptz as promised_at,
        (ordered_at + to_microseconds(((20 + 80 * delay * delay) * 60e6)::bigint))::timestamptz as delivered_at,
        round(8 + 60 * spend, 2) as subtotal,
        case when review < 43 then (ordered_at + interval 2 hour + to_microseconds((hours * 72 * 3600e6)::bigint))::timestamptz end
            as reviewed_at,
        case when review < 43 then 1.0 + (review % 5) end as review_score,
        (hash(customer_id) % 5)::double as segment_index
    from timed
) to $silver (format parquet, file_size_bytes '128MB');

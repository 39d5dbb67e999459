"use strict";
// The list of the page it is in: search, filters, order and history. Text from the data only ever becomes text nodes.
{
  const ROWS = 100; // In the page at once; ten thousand take a browser seconds. On paper all are.
  const TIERS = ["high", "medium", "low"];
  const STANDINGS = ["to contact", "contacted", "not to contact"];
  const [TO_CONTACT, CONTACTED] = STANDINGS;

  const at = (id) => document.getElementById(id);
  const lines = (id) => at(id).textContent.split("\n").filter((line) => line.startsWith("{")).map((line) => JSON.parse(line));
  const made = (name, parts = [], properties = {}) => {
    const element = Object.assign(document.createElement(name), properties);
    element.append(...[].concat(parts));
    return element;
  };

  const percent = new Intl.NumberFormat("en", { style: "percent", minimumFractionDigits: 1, maximumFractionDigits: 1 });
  const amount = new Intl.NumberFormat("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
  const count = new Intl.NumberFormat("en");
  const money = (value) => (week.currency ? `${amount.format(value)} ${week.currency}` : amount.format(value));
  const calendar = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric", timeZone: "UTC" });
  const day = (iso) => calendar.format(new Date(iso));

  const [week] = lines("week");
  const everyone = lines("customers");
  for (const customer of everyone) {
    customer.why = customer.why?.replace(/\d{4}-\d\d-\d\d/g, day) ?? null;
    const told = [customer.customer_id, customer.suggested_action ?? "", customer.why ?? "", ...customer.reasons];
    customer.text = told.join("\n").toLowerCase();
    customer.tier = TIERS.indexOf(customer.risk_tier);
  }

  const state = { field: "rank", isFalling: false, first: 0, chosen: [], isPaper: false };

  // --- What is chosen, and in which order ---

  const asked = () => ({
    words: at("search").value.toLowerCase().split(/\s+/).filter(Boolean),
    standing: at("standing").value,
    tier: at("tier").value,
    action: at("action").value,
  });

  const fits = (customer, { words, standing, tier, action }) =>
    (standing === "" || customer.standing === standing) &&
    (tier === "" || customer.risk_tier === tier) &&
    (action === "" || customer.suggested_action === action) &&
    words.every((word) => customer.text.includes(word));

  const sortable = (customer, field) => {
    if (field === "risk_tier") return customer.tier;
    if (field === "reasons") return customer.reasons.join("\n") || null;
    if (field === "suggested_action") return customer.suggested_action ?? customer.why;
    return customer[field];
  };

  // Who has no value comes last in either order; of equals the list's own order stays, because the sort is stable.
  const sorted = (customers) => {
    const sign = state.isFalling ? -1 : 1;
    return customers.sort((one, other) => {
      const [a, b] = [sortable(one, state.field), sortable(other, state.field)];
      if (a == null || b == null) return (a == null) - (b == null);
      return a < b ? -sign : a > b ? sign : 0;
    });
  };

  const choose = () => {
    const wanted = asked();
    state.chosen = sorted(everyone.filter((customer) => fits(customer, wanted)));
    state.first = 0;
    show();
  };

  // --- Rows ---

  const stands = (customer) =>
    customer.standing === CONTACTED ? "contacted" : customer.why === null ? "" : `not to contact: ${customer.why}`;

  const action = (customer) => customer.suggested_action ?? (customer.standing === TO_CONTACT ? "none that pays is left" : "");

  const cells = {
    count: (customer, field) => (customer[field] === null ? "–" : count.format(customer[field])),
    share: (customer, field) => percent.format(customer[field]),
    amount: (customer, field) => (customer[field] === null ? "–" : amount.format(customer[field])),
    tier: (customer) => made("span", week.tiers[customer.risk_tier], { className: customer.risk_tier }),
    action: (customer) =>
      customer.standing === TO_CONTACT ? action(customer) : made("span", stands(customer), { className: "why" }),
    reasons: (customer) => customer.reasons.join(" · ") || "–",
    id: (customer) => {
      const opener = made("button", made("bdi", customer.customer_id), { type: "button" });
      opener.setAttribute("aria-expanded", "false");
      opener.addEventListener("click", () => toggle(opener, customer));
      const below = customer.standing === TO_CONTACT ? action(customer) : stands(customer);
      const short = made("span", [cells.tier(customer), ` · ${below}`], { className: "narrow" });
      return [opener, short];
    },
  };

  const row = (customer) => {
    const of = week.columns.map(({ field, kind, width }) =>
      made("td", cells[kind](customer, field), { className: `${kind} ${width}` }),
    );
    return made("tr", of, { className: customer.standing === TO_CONTACT ? "" : "off" });
  };

  const toggle = (opener, customer) => {
    const above = opener.closest("tr");
    const isOpen = opener.getAttribute("aria-expanded") === "true";
    opener.setAttribute("aria-expanded", String(!isOpen));
    if (isOpen) above.nextElementSibling.remove();
    else above.after(made("tr", made("td", history(customer), { colSpan: week.columns.length }), { className: "more" }));
  };

  const part = (title, content) => made("section", [made("h2", title), content]);

  const history = (customer) => {
    const reasons = customer.reasons.map((reason) => made("li", reason));
    const events = customer.events.map(([on, what]) => made("li", `${day(on)}: ${what}`));
    const head = ["week of", "probability of leaving", "model version"].map((name) => made("th", name, { scope: "col" }));
    const scores = week.earlier.map(([asOf, version], place) => {
      const score = customer.scores[place];
      const told = [score === null ? "not scored" : percent.format(score), score === null ? "" : version];
      return made("tr", [made("th", day(asOf), { scope: "row" }), ...told.map((text) => made("td", text))]);
    });
    const parts = [part("Why at risk", reasons.length ? made("ol", reasons) : made("p", "No single reason stands out."))];
    if (scores.length) {
      const table = made("table", [made("thead", made("tr", head)), made("tbody", scores)]);
      parts.push(part("Scores before this week", table));
    }
    if (events.length) parts.push(part("Contacts and lists", made("ul", events)));
    if (customer.recent_spend !== null) {
      parts.push(part("Worth", made("p", `${money(customer.recent_spend)}, by what customers ${week.worth}`)));
    }
    return made("div", parts, { className: "parts" });
  };

  // --- The page ---

  const show = () => {
    const { chosen, first, isPaper } = state;
    const end = isPaper ? chosen.length : Math.min(first + ROWS, chosen.length);
    const begin = isPaper ? 0 : first;
    document.querySelector("#list > tbody").replaceChildren(...chosen.slice(begin, end).map(row));
    at("told").textContent = told(begin, end);
    at("chosen").textContent = inWords();
    at("earlier").disabled = first === 0;
    at("later").disabled = end === chosen.length;
    document.querySelector("nav").hidden = chosen.length <= ROWS;
    for (const heading of document.querySelectorAll(".titles > th")) {
      const isSorted = heading.dataset.field === state.field;
      heading.setAttribute("aria-sort", !isSorted ? "none" : state.isFalling ? "descending" : "ascending");
    }
  };

  const told = (begin, end) => {
    const found = state.chosen.length;
    const all = `${count.format(found)} of ${count.format(everyone.length)} customers at risk`;
    if (found > 0) return end - begin === found ? all : `${all}, ${count.format(begin + 1)} to ${count.format(end)} shown`;
    const others = everyone.filter((customer) => fits(customer, { ...asked(), standing: "", tier: "", action: "" })).length;
    return others ? `None of these; ${count.format(others)} at risk match outside of the filters` : "No customer at risk matches";
  };

  // For paper, on which nobody sees the filters.
  const inWords = () => {
    const { words, standing, tier, action: offer } = asked();
    const title = week.columns.find(({ field }) => field === state.field).title;
    const parts = [
      standing || "all customers at risk",
      tier && `${week.tiers[tier]} risk`,
      offer && `action ${offer}`,
      words.length && `with “${words.join(" ")}”`,
      `by ${title}${state.isFalling ? ", largest first" : ""}`,
    ];
    return `Shown: ${parts.filter(Boolean).join("; ")}.`;
  };

  const fill = (id, all, values) => {
    const options = values.map(([value, shown]) => made("option", shown ?? value, { value }));
    at(id).append(made("option", all, { value: "" }), ...options);
    at(id).addEventListener("change", choose);
  };

  for (const { field, title, kind, width } of week.columns) {
    const sorter = made("button", title, { type: "button" });
    const heading = made("th", sorter, { className: `${kind} ${width}`, scope: "col" });
    Object.assign(heading.dataset, { field, title });
    sorter.addEventListener("click", () => {
      // Of shares and amounts the largest are looked for first.
      const isFallingFirst = kind === "share" || kind === "amount";
      state.isFalling = state.field === field ? !state.isFalling : isFallingFirst;
      state.field = field;
      choose();
    });
    document.querySelector(".titles").append(heading);
  }
  document.querySelector("tr.paper > th").colSpan = week.columns.length;
  const counted = (standing) => count.format(everyone.filter((customer) => customer.standing === standing).length);
  const actions = new Set(everyone.map((customer) => customer.suggested_action).filter((name) => name !== null));
  fill("standing", `all at risk (${count.format(everyone.length)})`, STANDINGS.map((name) => [name, `${name} (${counted(name)})`]));
  fill("tier", "all", TIERS.map((name) => [name, week.tiers[name]]));
  fill("action", "all", [...actions].sort().map((name) => [name]));
  at("standing").value = TO_CONTACT;
  at("search").addEventListener("input", choose);
  at("controls").addEventListener("submit", (event) => event.preventDefault());
  at("print").addEventListener("click", () => window.print());
  const turn = (rows) => {
    state.first += rows;
    show();
    at("list").scrollIntoView();
  };
  at("earlier").addEventListener("click", () => turn(-ROWS));
  at("later").addEventListener("click", () => turn(ROWS));
  const onPaper = (isPaper) => () => {
    state.isPaper = isPaper;
    show();
  };
  window.addEventListener("beforeprint", onPaper(true));
  window.addEventListener("afterprint", onPaper(false));
  at("controls").hidden = false;
  choose();
}

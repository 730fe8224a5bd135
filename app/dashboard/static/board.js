// The figures of `/v1/dashboard` as headline, charts and tables.

import { Charts, tierColour } from "./charts.js";
import { bar, fill, make } from "./dom.js";
import { STAGES, between, count, dayOf, duration, percent, reasons, timeOfDay, usd, wait } from "./words.js";

const $ = (id) => document.getElementById(id);
let charts;

export function show(figures) {
  headline(figures);
  charts ??= new Charts($("cost"), $("tiers"));
  charts.show(figures);
  $("cost-about").textContent = `US dollars a${{ 300: " step of five minutes", 3600: "n hour", 86400: " day" }[figures.series.step_s]}.`;
  $("baseline").textContent = figures.baseline;
  $("note").textContent = figures.note ?? "";
  $("note").hidden = !figures.note;
  latency(figures.total.latency);
  quality(figures);
  targets(figures.targets);
  tenants(figures.top_tenants);
  decisions(figures);
}

function headline({ total, so_far, false_hits, quality, baseline, series }) {
  const cost = total.cost_usd + total.audit_cost_usd;
  const minutes = (series.time.length * series.step_s) / 60;
  const failed = Object.values(total.errors).reduce((sum, n) => sum + n, 0);
  const decided = Object.values(total.decisions).reduce((sum, n) => sum + n, 0);
  const share = total.without_usd ? total.saved_usd / total.without_usd : null;
  const meter = make("div", { class: "meter" }, make("span", {}, bar(share ?? 0)));
  const saved = figure("saved", "Saved in this time", usd(total.saved_usd), [
    `${percent(share, 1)} of the bill without Tierwise: ${usd(cost)} in place of ${usd(total.without_usd)} by ${baseline}.`,
    so_far && `So far, since ${dayOf(so_far.since)}: ${usd(so_far.saved_usd)} saved on ${count(so_far.requests)} requests.`,
  ]);
  saved.classList.add("first");
  saved.append(meter);
  const kept = quality?.kept;
  const checked = Object.values(quality?.tiers ?? {}).reduce((sum, tier) => sum + tier.checked, 0);
  const errors = figure("errors", "Errors", count(failed), [
    total.requests ? `${percent(failed / total.requests, 2)} of the requests` : "",
    Object.entries(total.errors).sort((a, b) => b[1] - a[1]).slice(0, 2).map(([name, n]) => `${name} ${count(n)}`).join(", "),
  ]);
  errors.classList.toggle("bad", failed > 0.05 * total.requests);
  $("headline").replaceChildren(
    saved,
    figure("hits", "Hit rate", percent(total.hit_rate, 1), [
      `${count(total.decisions.hit ?? 0)} of ${count(decided)} requests answered by the cache`,
    ]),
    figure("false-hits", "Wrong hits", percent(false_hits.estimate, 2), [
      `estimated, of the hits by meaning: ${between(false_hits.lower, false_hits.upper)} at ${percent(false_hits.confidence, 0)} confidence`,
      `${count(false_hits.checked)} checked; the limit is ${percent(false_hits.limit, 1)}`,
    ]),
    figure("kept", "Quality kept", quality && checked ? percent(kept.estimate, 1) : "–", [
      quality ? `of routed answers as good as the best tier's: ${between(kept.lower, kept.upper)}` : "not watched",
      quality && `${count(checked)} checked; promised ${percent(quality.promised, 1)}`,
    ]),
    figure("requests", "Requests", count(total.requests), [
      `${count(total.requests / minutes)} a minute`,
      `${count(total.prompt_tokens + total.completion_tokens)} tokens`,
    ]),
    errors,
  );
}

function figure(id, name, value, about) {
  const lines = about.filter(Boolean).map((line) => make("p", {}, line));
  return make("div", { class: "figure", id }, make("h2", {}, name), make("b", {}, value), ...lines);
}

function latency(stages) {
  const names = Object.keys(STAGES).filter((name) => name in stages);
  const most = Math.max(1, ...names.map((name) => stages[name].p95_ms));
  const length = (ms) => Math.log(1 + ms / 0.05) / Math.log(1 + most / 0.05);
  const rows = names.map((name) => {
    const { count: n, p50_ms, p95_ms } = stages[name];
    return [make("span", { class: "name" }, STAGES[name]), [bar(length(p95_ms), "pale"), bar(length(p50_ms))], duration(p50_ms), duration(p95_ms), count(n)];
  });
  fill($("latency"), [["stage"], ["", "w"], ["median", "n"], ["95 %", "n"], ["requests", "n desk"]], rows, "no requests in this time");
}

function quality({ quality: watch, tiers }) {
  const rows = tiers.filter((tier) => watch?.tiers[tier]).map((tier) => {
    const { estimate, lower, upper, checked, worse, steps } = watch.tiers[tier];
    return [make("span", { class: "name" }, tier), bar(estimate), percent(estimate, 1), between(lower, upper), `${count(worse)} of ${count(checked)}`, steps];
  });
  const columns = [["tier"], ["", "w desk"], ["kept", "n"], ["interval", "n"], ["worse", "n desk"], ["steps", "n desk"]];
  fill($("quality"), columns, rows, watch ? "nothing checked since a cut point last moved" : "not watched: that takes a best tier with its key");
}

const STATES = { closed: "good", open: "bad", "half-open": "warn", "no key": "warn", local: "" };

function targets(rows) {
  const cells = rows.map(({ tier, target, state, ends_in_s, calls, errors }) => {
    const failed = Object.values(errors).reduce((sum, n) => sum + n, 0);
    const kinds = Object.entries(errors).map(([kind, n]) => `${kind} ${count(n)}`).join(", ");
    const until = state === "open" ? `, ${wait(ends_in_s)}` : "";
    const share = calls ? ` (${percent(failed / calls, 1)})` : "";
    return [
      [make("span", { class: "name" }, target), make("span", { class: "small" }, tier)],
      calls === null ? "–" : count(calls),
      calls === null ? "–" : [`${count(failed)}${share}`, make("span", { class: "small" }, kinds)],
      make("span", { class: `tag ${STATES[state]}` }, `${state}${until}`),
    ];
  });
  fill($("targets"), [["model and tier"], ["calls", "n"], ["failed", "n wrap"], ["breaker", "n"]], cells, "no targets");
}

function tenants(rows) {
  const most = Math.max(1e-12, ...rows.map((row) => row.cost_usd + Math.max(0, row.saved_usd)));
  const cells = rows.map(({ tenant, requests, hit_rate, cost_usd, saved_usd }) => [
    make("span", { class: "name" }, tenant || "–"),
    [bar((cost_usd + Math.max(0, saved_usd)) / most, "pale"), bar(cost_usd / most)],
    count(requests),
    percent(hit_rate, 1),
    usd(cost_usd),
    usd(saved_usd),
  ]);
  const columns = [["tenant"], ["", "w desk"], ["requests", "n"], ["hits", "n desk"], ["cost", "n"], ["saved", "n"]];
  fill($("tenants"), columns, cells, "no requests in this time");
}

function decisions({ latest, tiers }) {
  const cells = latest.map((record) => {
    const dot = make("i", { class: "dot" });
    dot.style.background = `var(${tierColour(record.tier, tiers)})`;
    const failed = record.error !== "";
    return [
      [timeOfDay(record.time), make("span", { class: "small phone" }, record.tenant)],
      record.tenant,
      [make("span", { class: `tag ${failed ? "bad" : ""}` }, dot, record.tier), " ", make("span", { class: "model" }, record.model)],
      reasons(record).map((line) => make("span", { class: "reason" }, line)),
      duration(1000 * record.latency_s),
      [usd(record.cost_usd), make("span", { class: "small phone" }, `${usd(record.without_usd)} without`)],
      usd(record.without_usd),
    ];
  });
  const columns = [["time"], ["tenant", "desk"], ["answered by"], ["why", "why"], ["latency", "n desk"], ["cost", "n"], ["without us", "n desk"]];
  fill($("decisions"), columns, cells, "no requests yet, today and yesterday");
}

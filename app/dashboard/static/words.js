// How figures and records are said.

const locale = "en-US";
const whole = new Intl.NumberFormat(locale, { maximumFractionDigits: 0 });
const compact = new Intl.NumberFormat(locale, { notation: "compact", maximumFractionDigits: 1 });
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric" });

export const count = (n) => (n < 1e5 ? whole.format(n) : compact.format(n));

export function usd(dollars) {
  const size = Math.abs(dollars);
  const places = size >= 1000 || size === 0 ? 0 : size >= 0.1 ? 2 : size >= 0.001 ? 4 : 6;
  const digits = new Intl.NumberFormat(locale, { minimumFractionDigits: places, maximumFractionDigits: places });
  return `${dollars < 0 ? "−" : ""}$${digits.format(size)}`;
}

/** Dollars beside an axis. */
export const tick = (dollars) =>
  `$${new Intl.NumberFormat(locale, { minimumFractionDigits: dollars && dollars < 10 ? 2 : 0, maximumFractionDigits: 6 }).format(dollars)}`;

export function percent(share, places) {
  if (share === null || share === undefined) return "–";
  const digits = places ?? (share === 0 || share === 1 ? 0 : share < 0.1 || share > 0.98 ? 2 : 1);
  return `${(100 * share).toFixed(digits)}\u00a0%`;
}

export const between = (low, high) => `${percent(low, 2).replace("\u00a0%", "")} to ${percent(high, 2)}`;

export function duration(ms) {
  if (ms >= 60000) return `${(ms / 60000).toFixed(1)} min`;
  if (ms < 1) return `${ms.toFixed(2)} ms`;
  if (ms < 100) return `${ms.toFixed(1)} ms`;
  return ms < 1000 ? `${whole.format(ms)} ms` : `${(ms / 1000).toFixed(2)} s`;
}

export const wait = (s) => (s < 120 ? `${Math.ceil(s)} s` : `${Math.ceil(s / 60)} min`);

export const timeOfDay = (unix) => clock.format(new Date(1000 * unix));
export const dayOf = (unix) => day.format(new Date(1000 * unix));

export const STAGES = {
  total: "all of it",
  exact: "exact lookup",
  semantic: "lookup by meaning",
  route: "score and route",
  model: "the tier's model",
  stream: "rest of the stream",
  wait: "for an identical request",
};

/** Why a record was answered as it was: a short sentence for each thing that was decided. */
export function reasons(record) {
  if (record.kind === "audit") return [`a check of a ${record.reason}`];
  const said = [];
  if (record.cache) {
    const near = typeof record.similarity === "number" && record.reason !== "exact";
    said.push(`${record.cache}: ${record.reason}${near ? `, similarity ${record.similarity.toFixed(3)}` : ""}`);
  }
  if (record.route && record.route !== "cache") {
    said.push(`route: ${record.route}${typeof record.score === "number" ? `, difficulty ${record.score.toFixed(2)}` : ""}`);
  }
  if (record.cascade) said.push(`cascade: ${record.cascade}`);
  if (record.schema && record.schema !== "valid") said.push(`schema: ${record.schema}`);
  if (record.attempts > 1) said.push(`${record.attempts} tiers tried`);
  if (record.error) said.push(`error: ${record.error}, status ${record.status}`);
  return said;
}

// The two charts over time, drawn by uPlot in the page's colours.

import uPlot from "./uplot/uPlot.esm.js";
import { make } from "./dom.js";
import { percent, tick, usd } from "./words.js";

const HEIGHT = 230;
const dark = matchMedia("(prefers-color-scheme: dark)");
const hour = { hour: "2-digit", minute: "2-digit" };
const date = { day: "numeric", month: "short" };

const ink = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** The colour of each tier: the cache's own, then from the pale of the cheapest to the full of the best. */
export function tierColour(tier, tiers) {
  if (tier === "cache") return "--saved";
  const place = tiers.indexOf(tier);
  if (place < 0) return "--other";
  return `--tier-${tiers.length === 1 ? 4 : Math.round((4 * place) / (tiers.length - 1))}`;
}

/** A chart of bars, one before the other, and a legend that tells of the step under the cursor, or of all. */
class Bars {
  constructor(element, written) {
    this.element = element;
    this.written = written;
    this.legend = make("ul", { class: "legend" });
    element.after(this.legend);
    dark.addEventListener("change", () => this.drawn && this.build());
    new ResizeObserver(() => this.plot?.setSize({ width: this.element.clientWidth, height: HEIGHT })).observe(element);
  }

  /**
   * @param drawn.lines back to front: {name, colour, tops, values, all}; `tops` is drawn, `values` and `all` are told
   * @param drawn.time the starts of the steps; drawn.step the seconds of each; drawn.told writes a value
   */
  show(drawn) {
    const shape = JSON.stringify([drawn.range, drawn.step, drawn.lines.map((line) => line.name)]);
    const same = shape === this.shape && this.plot;
    this.drawn = drawn;
    this.shape = shape;
    if (same) this.plot.setData(this.data());
    else this.build();
    this.tell(null);
  }

  data() {
    return [this.drawn.time, ...this.drawn.lines.map((line) => line.tops)];
  }

  build() {
    const { lines, time, range } = this.drawn;
    const faint = { stroke: ink("--line"), width: 1 };
    const axis = { stroke: ink("--dim"), grid: faint, ticks: { show: false }, font: "12px system-ui, sans-serif" };
    const shown = new Intl.DateTimeFormat("en-GB", range === "7d" ? date : range === "30d" ? { ...date, timeZone: "UTC" } : hour);
    const bars = uPlot.paths.bars({ size: [time.length > 60 ? 1 : 0.78, 64], align: 1, gap: 0 });
    const options = {
      width: this.element.clientWidth,
      height: HEIGHT,
      padding: [10, 6, 0, 0],
      legend: { show: false },
      cursor: { y: false, points: { show: false }, drag: { setScale: false, x: false } },
      scales: {
        x: { time: false, range: () => [this.drawn.time[0], this.drawn.time.at(-1) + this.drawn.step] },
        y: { range: (_, low, high) => [0, this.drawn.most ?? (high > 0 ? high * 1.08 : 1)] },
      },
      axes: [
        { ...axis, grid: { show: false }, size: 28, splits: () => this.splits(), values: (_, at) => at.map((t) => shown.format(1000 * t)) },
        { ...axis, size: 58, values: (_, at) => at.map(this.written) },
      ],
      series: [{}, ...lines.map((line) => ({ fill: ink(line.colour), width: 0, points: { show: false }, paths: bars }))],
      hooks: { setCursor: [(plot) => this.tell(plot.cursor.idx === undefined ? null : plot.cursor)] },
    };
    this.plot?.destroy();
    this.plot = new uPlot(options, this.data(), this.element);
  }

  /** Times with a label, of whole hours or days where steps allow, and as many as there is room for. */
  splits() {
    const { time, step } = this.drawn;
    const every = { 300: [600, 900, 1800], 3600: time.length > 24 ? [86400, 2 * 86400] : [7200, 14400, 21600], 86400: [5 * 86400, 10 * 86400] }[step];
    const room = Math.max(2, Math.floor(this.element.clientWidth / 72));
    const span = step * time.length;
    const pace = every.find((s) => span / s <= room) ?? every.at(-1);
    const away = step < 86400 ? 60 * new Date(1000 * time[0]).getTimezoneOffset() : 0;
    const first = Math.ceil((time[0] - away) / pace) * pace + away;
    return Array.from({ length: Math.ceil((time.at(-1) + step - first) / pace) }, (_, i) => first + i * pace);
  }

  tell(cursor) {
    const { lines, time, step, range } = this.drawn;
    const over = cursor && cursor.left >= 0 && cursor.left !== undefined;
    const at = over ? time.findLastIndex((t) => t <= this.plot.posToVal(cursor.left, "x")) : -1;
    const when = new Intl.DateTimeFormat("en-GB", { ...date, ...(step < 86400 ? hour : { timeZone: "UTC" }) });
    const items = [...lines].reverse().map((line) => {
      const swatch = make("i");
      swatch.style.background = `var(${line.colour})`;
      const value = at < 0 ? line.all : line.values[at];
      return make("li", {}, swatch, `${line.name} `, make("b", {}, value === null ? "–" : this.drawn.told(value)));
    });
    const head = at < 0 ? { "1h": "last hour", "24h": "last 24 h", "7d": "last 7 days", "30d": "last 30 days" }[range] : when.format(1000 * time[at]);
    this.legend.replaceChildren(make("li", { class: "dim when" }, head), ...items);
  }
}

const sum = (values) => values.reduce((total, value) => total + value, 0);

export class Charts {
  constructor(cost, tiers) {
    this.cost = new Bars(cost, tick);
    this.tiers = new Bars(tiers, (share) => `${Math.round(100 * share)} %`);
  }

  show(figures) {
    const { series } = figures;
    const common = { time: series.time, range: figures.range, step: series.step_s };
    const line = (name, colour, values) => ({ name, colour, tops: values, values, all: sum(values) });
    this.cost.show({
      ...common,
      told: usd,
      lines: [line("without Tierwise", "--without", series.without_usd), line("with Tierwise", "--saved", series.cost_usd)],
    });
    this.tiers.show({ ...common, told: (share) => percent(share, 1), most: 1, lines: shares(figures) });
    const all = this.tiers.drawn.lines.map((one) => `${one.name} ${percent(one.all, 1)}`);
    this.tiers.element.setAttribute("aria-label", `Share of requests by tier: ${all.join(", ")}`);
    const [without, cost] = this.cost.drawn.lines.map((one) => usd(one.all));
    this.cost.element.setAttribute("aria-label", `Cost over time: ${cost} with Tierwise, ${without} without`);
  }
}

/** Tiers as stacked shares, back to front: each top has all those below it in it. */
function shares({ series, tiers }) {
  const known = ["cache", ...tiers].filter((tier) => tier in series.tiers);
  const names = [...known, ...Object.keys(series.tiers).filter((tier) => !known.includes(tier))];
  const totals = series.time.map((_, i) => sum(names.map((name) => series.tiers[name][i])));
  const requests = sum(totals);
  let below = totals.map(() => 0);
  const lines = names.map((name) => {
    below = below.map((count, i) => count + series.tiers[name][i]);
    const of = (counts) => counts.map((count, i) => (totals[i] ? count / totals[i] : null));
    const label = name === "none" ? "nobody (errors)" : name;
    const all = requests ? sum(series.tiers[name]) / requests : null;
    return { name: label, colour: tierColour(name, tiers), tops: of(below), values: of(series.tiers[name]), all };
  });
  return lines.reverse();
}

import { html, number, svg } from "./dom.js";
import { concise } from "./tokens.js";

const HEIGHT = 220;
const EDGE = { left: 8, right: 8, top: 10, bottom: 30 };
const LABELS = 6;
const ROW = 19;
const NARROW = 480;

/** The neuron's projection onto the vocabulary, the selected channel's over it, tails named. */
export function histogramView(store) {
  const figure = html("figure", { class: "rotate-figure rotate-histogram" });
  const redraw = ({ shown, selected }) => {
    const width = Math.max(figure.clientWidth, 280);
    figure.replaceChildren(...(shown ? draw(shown, shown.channels[selected], width) : []));
  };
  store.watch((state, before) => {
    if (state.shown !== before.shown || state.selected !== before.selected) redraw(state);
  });
  let width = 0;
  new ResizeObserver(() => {
    if (figure.clientWidth === width) return;
    width = figure.clientWidth;
    redraw(store.state);
  }).observe(figure);
  return figure;
}

/** Drawn to the figure's own width, so that letters keep their size on a phone. */
function draw(neuron, channel, width) {
  const all = channel ? [neuron.histogram, channel.histogram] : [neuron.histogram];
  const low = Math.min(-5, ...all.map((h) => h.from)) - 0.5;
  const high = Math.max(5, ...all.map((h) => h.from + h.step * h.counts.length)) + 0.5;
  const most = Math.log1p(Math.max(...all.flatMap((h) => h.counts)));
  const x = (z) => EDGE.left + ((z - low) / (high - low)) * (width - EDGE.left - EDGE.right);
  const y = (count) => HEIGHT - EDGE.bottom - (Math.log1p(count) / most) * (HEIGHT - EDGE.top - EDGE.bottom);

  const what = channel ? "the selected channel" : "the neuron";
  const [positive, negative] = named(neuron, channel, width < NARROW ? 4 : LABELS);
  const description =
    `Histogram of z-scores over the vocabulary. Excess kurtosis of the neuron ${number(neuron.kurtosis, 1)}` +
    (channel ? `, of the selected channel ${number(channel.kurtosis, 1)}. ` : ". ") +
    `Highest tokens of ${what}: ${list(positive)}. Lowest: ${list(negative)}.`;
  const chart = svg(
    "svg",
    { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": description },
    ...axis(low, high, x, width),
    svg("path", { class: "rotate-bars", d: area(neuron.histogram, x, y) }),
    channel && svg("path", { class: "rotate-outline", d: area(channel.histogram, x, y) }),
    ...names(positive, x, width, +1),
    ...names(negative, x, width, -1),
  );
  const caption = html(
    "figcaption",
    {},
    html("span", { class: "rotate-key rotate-key-neuron" }, `neuron, kurtosis ${number(neuron.kurtosis, 1)}`),
    channel &&
      html("span", { class: "rotate-key rotate-key-channel" }, `selected channel, kurtosis ${number(channel.kurtosis, 1)}`),
    html("span", { class: "rotate-muted" }, "tokens by z-score, counts on a log scale"),
  );
  return [chart, caption];
}

/** The tokens to name: the channel's on its heavy side, or the neuron's on both. */
function named(neuron, channel, most) {
  if (!channel) return [neuron.positive.slice(0, most), neuron.negative.slice(0, most)];
  const side = (sign) => channel.top.filter(([, z]) => sign * z > 0).slice(0, most);
  return [side(+1), side(-1)];
}

const list = (tokens) => tokens.map(([token, z]) => `${concise(token)} ${number(z, 1)}`).join(", ") || "none";

/** A filled outline of the bins. */
function area({ from, step, counts }, x, y) {
  const points = [`M${x(from)},${y(0)}`];
  counts.forEach((count, i) => {
    points.push(`V${y(count).toFixed(1)}`, `H${x(from + (i + 1) * step).toFixed(1)}`);
  });
  return `${points.join("")}V${y(0)}Z`;
}

function axis(low, high, x, width) {
  const step = [1, 2, 5, 10, 20, 50].find((s) => (high - low) / s <= width / 45) ?? 100;
  const base = HEIGHT - EDGE.bottom;
  const marks = [svg("line", { class: "rotate-axis", x1: EDGE.left, x2: width - EDGE.right, y1: base, y2: base })];
  for (let z = Math.ceil(low / step) * step; z <= high; z += step) {
    marks.push(svg("text", { class: "rotate-tick", x: x(z), y: base + 18 }, number(z, 0)));
  }
  return marks;
}

/** Names above the tail, the outermost lowest, each with a line down to its place on the axis. */
function names(tokens, x, width, sign) {
  const base = HEIGHT - EDGE.bottom;
  return tokens.flatMap(([token, z], i) => {
    const top = base - 14 - ROW * i;
    const anchor = sign > 0 ? Math.min(x(z) + 4, width - 4) : Math.max(x(z) - 4, 4);
    return [
      svg("line", { class: "rotate-leader", x1: x(z), x2: x(z), y1: base, y2: top + 2 }),
      svg(
        "text",
        { class: `rotate-name ${sign > 0 ? "rotate-plus" : "rotate-minus"}`, x: anchor, y: top, "text-anchor": sign > 0 ? "end" : "start" },
        shorten(concise(token)),
      ),
    ];
  });
}

const shorten = (text) => (text.length > 16 ? `${text.slice(0, 15)}…` : text);

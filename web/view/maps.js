import { cosine } from "../solver/vectors.js";
import { reconstruction, reconstructionByChance } from "./data.js";
import { html, number, svg } from "./dom.js";

/** How the channels lie to one another, and how much of the neuron they make up together. */
export function mapsView(store) {
  const box = html("div", { class: "rotate-maps" });
  store.watch(({ shown }, before) => {
    if (shown === before.shown) return;
    box.replaceChildren(...(shown?.channels.length ? [matrix(shown), curve(shown)] : []));
  });
  return box;
}

function matrix({ channels }) {
  const n = channels.length;
  const size = 300;
  const edge = 26;
  const cell = (size - edge) / n;
  const cells = [];
  for (let i = 0; i < n; i++) {
    const place = edge + (i + 0.5) * cell;
    cells.push(svg("text", { class: "rotate-tick", x: place, y: 16 }, String(i + 1)));
    cells.push(svg("text", { class: "rotate-tick", x: 12, y: place + 4 }, String(i + 1)));
    for (let j = 0; j < n; j++) {
      const value = i === j ? 1 : cosine(channels[i].vector, channels[j].vector);
      const [left, top] = [edge + j * cell, edge + i * cell];
      cells.push(
        svg(
          "g",
          {},
          svg("rect", {
            class: value < 0 ? "rotate-cell rotate-cell-minus" : "rotate-cell",
            x: left + 1, y: top + 1, width: cell - 2, height: cell - 2, rx: 3,
            "fill-opacity": (0.08 + 0.5 * Math.abs(value)).toFixed(2),
          }),
          n <= 8 &&
            svg("text", { class: "rotate-value", x: left + cell / 2, y: top + cell / 2 + 4 }, number(value)),
        ),
      );
    }
  }
  const pairs = channels.flatMap((a, i) => channels.slice(i + 1).map((b) => cosine(a.vector, b.vector)));
  const mean = pairs.reduce((sum, x) => sum + x, 0) / (pairs.length || 1);
  const label = `Cosines between the ${n} channels; their mean is ${number(mean)}.`;
  return html(
    "figure",
    { class: "rotate-figure" },
    html("p", { class: "rotate-heading" }, "Cosine between channels"),
    svg("svg", { viewBox: `0 0 ${size} ${size}`, role: "img", "aria-label": label }, ...cells),
    html(
      "figcaption",
      { class: "rotate-muted" },
      "Two random directions at cosines a and b with the neuron are at a·b with each other.",
    ),
  );
}

function curve({ w, channels }) {
  const values = reconstruction(w, channels.map(({ vector }) => vector));
  const chance = reconstructionByChance(channels.map((channel) => channel.cosine));
  const [width, height, left, bottom, top] = [300, 300, 36, 30, 12];
  const n = channels.length;
  const x = (i) => left + 12 + (n > 1 ? i / (n - 1) : 0.5) * (width - left - 30);
  const y = (value) => height - bottom - value * (height - bottom - top);
  const path = (points) => points.map((value, i) => `${i ? "L" : "M"}${x(i).toFixed(1)},${y(value).toFixed(1)}`).join("");
  const grid = [0, 0.25, 0.5, 0.75, 1].flatMap((value) => [
    svg("line", { class: "rotate-grid", x1: left, x2: width - 4, y1: y(value), y2: y(value) }),
    svg("text", { class: "rotate-tick rotate-end", x: left - 6, y: y(value) + 4 }, number(value)),
  ]);
  const label =
    `Cosine of the neuron with the best combination of its first channels: ${values.map((v) => number(v)).join(", ")}. ` +
    `Random directions at the same cosines would give ${chance.map((v) => number(v)).join(", ")}.`;
  return html(
    "figure",
    { class: "rotate-figure" },
    html("p", { class: "rotate-heading" }, "Reconstruction by number of channels"),
    svg(
      "svg",
      { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label },
      ...grid,
      ...values.map((_, i) => svg("text", { class: "rotate-tick", x: x(i), y: height - 10 }, String(i + 1))),
      svg("path", { class: "rotate-chance", d: path(chance) }),
      svg("path", { class: "rotate-curve", d: path(values) }),
      ...values.map((value, i) => svg("circle", { class: "rotate-dot", cx: x(i), cy: y(value), r: 4 })),
    ),
    html(
      "figcaption",
      {},
      html("span", { class: "rotate-key rotate-key-channel" }, "channels"),
      html("span", { class: "rotate-key rotate-key-chance" }, "random directions at the same cosines"),
    ),
  );
}

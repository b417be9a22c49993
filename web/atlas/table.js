import { small } from "../view/cards.js";
import { html, number, uniqueId } from "../view/dom.js";
import { concise } from "../view/tokens.js";

/** Of a table's page. */
export const ROWS = 25;
const N_TOKENS = 6;

/** Neurons of a layer and kind, each by its first channel; a click shows all of a neuron's. */
export function tableView(store, { look, turnTo, choose }) {
  const [groupId, orderId, neuronId] = ["group", "order", "number"].map(uniqueId);
  const groups = html("select", { id: groupId, onchange: change });
  const order = html(
    "select",
    { id: orderId, onchange: change },
    html("option", { value: "number" }, "by number"),
    html("option", { value: "evidence" }, "by p-value"),
  );
  function change() {
    look(store.state.atlas.groups[groups.value], order.value === "evidence");
  }
  const wanted = html("input", { id: neuronId, type: "number", min: 0, step: 1, required: true });
  const go = (event) => {
    event.preventDefault();
    const { layer, kind } = store.state.group;
    choose({ layer, kind, index: wanted.valueAsNumber });
  };
  const body = html("tbody");
  const caption = html("caption");
  const measured = html("p", { class: "rotate-muted" });
  const step = (by) => () => turnTo(store.state.from + by * ROWS);
  const back = html("button", { type: "button", onclick: step(-1) }, "‹ Previous");
  const on = html("button", { type: "button", onclick: step(1) }, "Next ›");
  store.watch((state, before) => {
    if (state.atlas !== before.atlas && state.atlas) {
      const name = ({ layer, kind, neurons }) => `layer ${layer}, ${kind} (${neurons.size.toLocaleString("en")})`;
      groups.replaceChildren(...state.atlas.groups.map((group, i) => html("option", { value: i }, name(group))));
      order.value = "number";
    }
    groups.disabled = !state.group; // until then they would choose the first one
    order.disabled = !state.group || !state.atlas.manifest.null;
    if (state.group !== before.group && state.group) groups.value = state.atlas.groups.indexOf(state.group);
    measured.textContent = state.measured;
    if (state.rows === before.rows && state.current === before.current) return;
    const { from, rows, order: all, current } = state;
    caption.textContent = rows.length ? `${from + 1} to ${from + rows.length} of ${all.length.toLocaleString("en")} neurons` : "";
    body.replaceChildren(...rows.map((neuron, i) => row(state, neuron, all[from + i], choose)));
    back.disabled = from === 0;
    on.disabled = from + ROWS >= all.length;
  });
  return html(
    "div",
    { class: "rotate-neurons" },
    html(
      "div",
      { class: "rotate-row" },
      html("label", { for: groupId }, "Neurons of"),
      groups,
      html("label", { for: orderId }, "in order"),
      order,
    ),
    measured,
    html(
      "table",
      {},
      caption,
      html("thead", {}, html("tr", {}, ...["Neuron", "First channel", "kurtosis", "q"].map((name) => html("th", { scope: "col" }, name)))),
      body,
    ),
    html(
      "form",
      { class: "rotate-row", onsubmit: go },
      back,
      on,
      html("label", { for: neuronId }, "Number"),
      wanted,
      html("button", { type: "submit" }, "Show"),
    ),
  );
}

function row({ info, current, group }, neuron, index, choose) {
  const { layer, kind } = group;
  const isChosen = current?.index === index && current.layer === layer && current.kind === kind;
  const name = html("button", { type: "button", "aria-pressed": String(isChosen), onclick: () => choose({ layer, kind, index }) }, String(index));
  if (!neuron) return html("tr", {}, html("th", { scope: "row" }, name), html("td", { colspan: 3 }, "not there yet"));
  const { top, tail, kurtosis, q } = neuron.channels[0];
  const isOwn = q !== null && q < info.significant;
  const tokens = top.slice(0, N_TOKENS).map(([token, z]) => (tail === 0 && z < 0 ? "−" : "") + concise(token));
  return html(
    "tr",
    { class: isOwn ? "rotate-own-row" : q === null ? "" : "rotate-random-row" },
    html("th", { scope: "row" }, name),
    html("td", { class: "rotate-first" }, `${tail < 0 ? "− " : ""}${tokens.join("  ")}`),
    html("td", {}, number(kurtosis, 1)),
    html("td", {}, small(q)),
  );
}

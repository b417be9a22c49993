import { html, uniqueId } from "./dom.js";

/** Which neuron: any of the model's where Python answers, one of the page's where it does not. */
export function pickerView(store, { choose, random }) {
  const box = html("div", { class: "rotate-picker", role: "group", "aria-label": "Neuron" });
  store.watch((state, before) => {
    if (state.mode !== before.mode) {
      box.replaceChildren(...(state.mode === "live" ? live(store, choose, random) : embedded(store, choose, random)));
    }
    if (state.current !== before.current || state.mode !== before.mode) show(box, state);
  });
  return box;
}

function embedded(store, choose, random) {
  const { neurons } = store.state;
  const id = uniqueId("neuron");
  const pick = (event) => choose(neurons[Number(event.target.value)]);
  const options = neurons.map(({ layer, kind, index, note }, i) =>
    html("option", { value: i }, `layer ${layer}, ${kind}, neuron ${index}${note ? `: ${note}` : ""}`),
  );
  const step = (by) => () => {
    const { current } = store.state;
    const at = neurons.findIndex((neuron) => same(neuron, current));
    choose(neurons[(at + by + neurons.length) % neurons.length]);
  };
  return [
    html("label", { for: id }, "Neuron"),
    html("select", { id, class: "rotate-embedded", onchange: pick }, ...options),
    ...stepButtons(step, random),
  ];
}

function live(store, choose, random) {
  const { info } = store.state;
  const field = (name, label, most) => {
    const id = uniqueId(name);
    return [
      html("label", { for: id }, label),
      html("input", { id, class: `rotate-${name}`, type: "number", min: 0, max: most - 1, step: 1, required: true, onchange: read }),
    ];
  };
  function read(event) {
    const box = event.target.closest(".rotate-picker");
    const [layer, index] = ["layer", "index"].map((name) => box.querySelector(`.rotate-${name}`));
    if (!layer.reportValidity() || !index.reportValidity()) return;
    choose({ layer: layer.valueAsNumber, kind: box.querySelector(".rotate-kind").value, index: index.valueAsNumber });
  }
  const kindId = uniqueId("kind");
  const kinds = info.kinds.map((kind) => html("option", { value: kind }, kind));
  const step = (by) => () => {
    const { current } = store.state;
    choose({ ...current, index: (current.index + by + info.d_mlp) % info.d_mlp });
  };
  return [
    ...field("layer", "Layer", info.n_layers),
    html("label", { for: kindId }, "Kind"),
    html("select", { id: kindId, class: "rotate-kind", onchange: read }, ...kinds),
    ...field("index", "Neuron", info.d_mlp),
    ...stepButtons(step, random),
  ];
}

function stepButtons(step, random) {
  const button = (text, label, onclick) => html("button", { type: "button", onclick, "aria-label": label, title: label }, text);
  return [
    html(
      "span",
      { class: "rotate-row" },
      button("‹", "Previous neuron", step(-1)),
      button("›", "Next neuron", step(+1)),
      html("button", { type: "button", onclick: random }, "Random"),
    ),
  ];
}

function show(box, { mode, current, neurons }) {
  if (!current) return;
  if (mode === "live") {
    box.querySelector(".rotate-layer").value = current.layer;
    box.querySelector(".rotate-kind").value = current.kind;
    box.querySelector(".rotate-index").value = current.index;
  } else {
    box.querySelector("select").selectedIndex = neurons.findIndex((neuron) => same(neuron, current));
  }
}

/** Whether two things name the same neuron. */
export const same = (a, b) => a.layer === b.layer && a.kind === b.kind && a.index === b.index;

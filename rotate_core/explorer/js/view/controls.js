import { html, number, uniqueId } from "./dom.js";

const SLIDERS = [
  { name: "lambda_kurtosis", label: "λ kurtosis", min: 0, max: 1, step: 0.05, digits: 2, hint: "how much a peaked projection counts" },
  { name: "lambda_fidelity", label: "λ fidelity", min: 0.1, max: 2, step: 0.1, digits: 1, hint: "how much closeness to the neuron counts" },
  { name: "threshold", label: "threshold", min: 2, max: 10, step: 0.5, digits: 1, hint: "z-score beyond which a channel's tokens are masked" },
  { name: "n_channels", label: "channels", min: 1, max: 10, step: 1, digits: 0, hint: "how many to look for" },
];
const CHOICES = [
  { name: "solver", label: "solver", values: ["geodesic", "householder"] },
  { name: "moments", label: "moments", values: ["weighted", "scaled"] },
];

/** The rotation's own controls: what to download, what to move, how far it is. */
export function controlsView(store, { change, load, cancel, reset }) {
  const start = html("button", { type: "button", class: "rotate-primary", onclick: load });
  const offer = html(
    "p",
    { class: "rotate-offer" },
    start,
    html("span", { class: "rotate-muted" }, "Then the sliders rotate this neuron here, in your browser. Nothing is sent anywhere."),
  );
  const sliders = SLIDERS.map((slider) => sliderView(store, slider, change));
  const choices = CHOICES.map((choice) => choiceView(store, choice, change));
  const fields = html("div", { class: "rotate-sliders" }, ...sliders, ...choices);
  const bar = html("progress", { max: 1, "aria-label": "Progress" });
  const cancelButton = html("button", { type: "button", onclick: cancel }, "Cancel");
  const work = html("div", { class: "rotate-work" }, bar, cancelButton);
  const resetButton = html("button", { type: "button", class: "rotate-reset", onclick: reset }, "Back to the stored channels");

  store.watch(({ mode, canRun, running, engine, settings, defaults, matches, stored }) => {
    const waiting = mode === "static" && !canRun && engine && engine.file.vocabulary === stored?.vocabulary;
    offer.hidden = !waiting || Boolean(running);
    start.textContent = engine ? `Rotate it yourself (${megabytes(engine.file.bytes)} MB, once)` : "";
    fields.hidden = !canRun;
    choices.forEach((choice) => (choice.hidden = mode !== "live"));
    work.hidden = !running;
    if (running?.fraction === undefined || running?.fraction === null) bar.removeAttribute("value");
    else bar.value = running.fraction;
    const moved = Object.keys(settings).some((name) => settings[name] !== defaults[name]);
    resetButton.hidden = Boolean(running) || !canRun || !(moved || matches);
  });
  return html("div", { class: "rotate-controls", role: "group", "aria-label": "Rotation" }, offer, fields, work, resetButton);
}

const megabytes = (bytes) => Math.round(bytes / 1e6);

function sliderView(store, { name, label, min, max, step, digits, hint }, change) {
  const id = uniqueId(name);
  const output = html("output", { for: id });
  const oninput = (event) => change(name, event.target.valueAsNumber);
  const input = html("input", { id, type: "range", min, max, step, name, oninput });
  store.watch(({ settings }) => {
    input.value = settings[name];
    input.setAttribute("aria-valuetext", number(settings[name], digits));
    output.textContent = number(settings[name], digits);
  });
  return html("div", { class: "rotate-slider", title: hint }, html("label", { for: id }, label), input, output);
}

function choiceView(store, { name, label, values }, change) {
  const id = uniqueId(name);
  const options = values.map((value) => html("option", { value }, value));
  const select = html("select", { id, name, onchange: (event) => change(name, event.target.value) }, ...options);
  store.watch(({ settings }) => (select.value = settings[name]));
  return html("div", { class: "rotate-slider" }, html("label", { for: id }, label), select);
}

import { focusedWithin, html, number, uniqueId } from "./dom.js";
import { changed } from "./link.js";

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

const CONTROLS = Object.fromEntries([...SLIDERS, ...CHOICES].map((control) => [control.name, control]));

/** Settings that only Python has. */
export const PYTHON_ONLY = CHOICES.map(({ name }) => name);

/** Whether a control can stand at a value. */
export function isPossible(name, value) {
  const { values, min, max, step } = CONTROLS[name] ?? {};
  if (values) return values.includes(value);
  return value >= min && value <= max && (step < 1 || Number.isInteger(value));
}

/** Settings in words: "λ kurtosis 0.20; threshold 6.0". */
export const inWords = (settings) =>
  settings.map(([name, value]) => `${CONTROLS[name].label} ${text(name, value)}`).join("; ");

const text = (name, value) => (typeof value === "number" ? number(value, CONTROLS[name].digits) : value);

/** What channels were made with, where the sliders say something else; "" where they do not. */
export function madeOtherwise(made, settings) {
  const differing = Object.keys(settings).filter((name) => made && made[name] !== settings[name]);
  if (!differing.length) return "";
  const list = differing.map(
    (name) => `${CONTROLS[name].label} ${text(name, made[name])}, not ${text(name, settings[name])}`,
  );
  return `The channels below were made with ${list.join("; ")}.`;
}

/** Why the page cannot rotate what it shows: Python's reason, or a file of another vocabulary. */
export function reasonNotToRotate({ mode, refusal, engine, stored }) {
  if (mode !== "static" || !stored) return "";
  if (refusal) return refusal;
  if (!engine || engine.file.vocabulary === stored.vocabulary) return "";
  return `These channels were found over another vocabulary matrix (${stored.vocabulary}) than the one that this page can load (${engine.file.vocabulary}): they can be rotated in a notebook only.`;
}

/** The rotation's own controls: what to download, what to move, how far it is. */
export function controlsView(store, { change, load, cancel, reset }) {
  const start = html("button", { type: "button", class: "rotate-primary", onclick: load });
  const offer = html(
    "p",
    { class: "rotate-offer" },
    start,
    html("span", { class: "rotate-muted" }, "Then the sliders rotate this neuron here, in your browser. Nothing is sent anywhere."),
  );
  const reason = html("p", { class: "rotate-muted" });
  const made = html("p", { class: "rotate-made" });
  const sliders = SLIDERS.map((slider) => sliderView(store, slider, change));
  const choices = CHOICES.map((choice) => choiceView(store, choice, change));
  const fields = html("div", { class: "rotate-sliders" }, ...sliders, ...choices);
  const bar = html("progress", { max: 1, "aria-label": "Progress" });
  const cancelButton = html("button", { type: "button", onclick: cancel }, "Cancel");
  const work = html("div", { class: "rotate-work" }, bar, cancelButton);
  const resetButton = html("button", { type: "button", class: "rotate-reset", onclick: reset }, "Back to the stored channels");
  const box = html("div", { class: "rotate-controls", role: "group", "aria-label": "Rotation", tabindex: -1 }, offer, reason, fields, work, made, resetButton);

  store.watch((state) => {
    const { mode, canRun, running, engine, settings, defaults, matches, stored, shown } = state;
    const focused = focusedWithin(box);
    reason.textContent = reasonNotToRotate(state);
    reason.hidden = !reason.textContent;
    made.textContent = running?.rotates ? "" : madeOtherwise(shown?.made, settings);
    made.hidden = !made.textContent;
    const waiting = mode === "static" && !canRun && engine && engine.file.vocabulary === stored?.vocabulary;
    offer.hidden = !waiting || Boolean(running);
    start.textContent = engine ? `Rotate it yourself (${megabytes(engine.file.bytes)} MB, once)` : "";
    fields.hidden = !canRun;
    choices.forEach((choice) => (choice.hidden = mode !== "live"));
    work.hidden = !running;
    if (running?.fraction === undefined || running?.fraction === null) bar.removeAttribute("value");
    else bar.value = running.fraction;
    resetButton.hidden = Boolean(running) || !canRun || !(changed(settings, defaults).length || matches);
    keepFocus(focused, [cancelButton, start, sliders[0].querySelector("input"), box]);
  });
  return box;
}

/** What had the focus and is gone hands it on, to the first of these that is to be seen. */
function keepFocus(focused, heirs) {
  const seen = (element) => element.getClientRects().length > 0;
  if (focused && !seen(focused)) heirs.find(seen)?.focus({ preventScroll: true });
}

const megabytes = (bytes) => Math.round(bytes / 1e6);

function sliderView(store, { name, label, min, max, step, digits, hint }, change) {
  const id = uniqueId(name);
  const output = html("output", { for: id });
  const oninput = (event) => change(name, event.target.valueAsNumber);
  const start = store.state.defaults[name]; // which may lie beyond what the slider usually reaches
  const bounds = { min: Math.min(min, start), max: Math.max(max, start) };
  const input = html("input", { id, type: "range", ...bounds, step, name, oninput });
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

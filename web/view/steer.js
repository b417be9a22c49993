import { html, number, uniqueId } from "./dom.js";
import { tableOfNext } from "./next.js";
import { concise } from "./tokens.js";

const MOST = 1;
const STEP = 0.05;
const PAUSE = 250;

/** The side of a channel's furthest token: a slider to the right leads towards it, whatever the vector's sign. */
export const towards = ({ top }) => (top[0]?.[1] < 0 ? -1 : 1);

/** What a strength is, in words: for the label under the slider, and for who does not see it. */
export function inWords(strength, channel) {
  if (!strength) return "0: the model as it is";
  const words = channel.top.slice(0, 3).map(([token]) => concise(token)).join(" ");
  return `${number(Math.abs(strength))} × the residual stream's length, ${strength > 0 ? "towards" : "away from"} ${words}`;
}

/** Why a channel cannot be steered with; "" where it can. */
export function reasonNotToSteer(shown, selected) {
  if (!shown) return "No neuron is shown.";
  if (shown.kind !== "out") return `A channel of ${shown.kind} is what the neuron reads: it writes nothing, so there is nothing to steer with. Channels of out are written.`;
  return shown.channels[selected] ? "" : "Choose a channel to steer the model along it.";
}

/** Only with Python: a channel's direction added to what the layer writes, and how the text then goes on. */
export function steerView(store, { steer }) {
  const id = uniqueId("steer");
  const label = html("label", { for: id });
  const value = html("output", { for: id });
  const input = html("input", { id, type: "range", name: "steer", min: -MOST, max: MOST, step: STEP, value: 0 });
  const zero = html("button", { type: "button" }, "Back to 0");
  const words = html("p", { class: "rotate-muted" });
  const slider = html("div", { class: "rotate-row" }, label, input, value, zero);
  const reason = html("p", { class: "rotate-muted" });
  const note = html("p", { class: "rotate-steer-note" }); // said aloud by the status above
  const output = html("div", { class: "rotate-prompt-output", "aria-live": "polite" });
  let pause;
  let asked = 0; // what comes back for an earlier strength, channel or text is not shown

  const channel = () => store.state.shown?.channels[store.state.selected];

  function show() {
    const strength = input.valueAsNumber;
    const said = channel() ? inWords(strength, channel()) : "";
    input.setAttribute("aria-valuetext", said);
    value.textContent = `${strength > 0 ? "+" : ""}${number(strength)}`;
    words.textContent = said;
    zero.disabled = strength === 0;
  }

  function say(message, isError = false) {
    note.textContent = message;
    note.classList.toggle("rotate-error", isError);
  }

  /** Waits until the slider rests; what was asked before is stopped by what is asked now. */
  function change() {
    show();
    clearTimeout(pause);
    pause = setTimeout(run, PAUSE);
  }

  async function run() {
    const [mine, strength, steered] = [++asked, input.valueAsNumber, channel()];
    if (!store.state.text) return say("The text above is empty.", true);
    say("Python runs the model …");
    const answer = await steer(steered.vector, towards(steered) * strength);
    if (mine !== asked) return;
    say(answer.error ?? "", Boolean(answer.error));
    if (answer.next) output.replaceChildren(...draw(answer, strength));
  }

  function clear() {
    clearTimeout(pause);
    asked += 1;
    input.value = 0;
    say("");
    output.replaceChildren();
    show();
  }

  input.addEventListener("input", change);
  zero.addEventListener("click", () => {
    input.value = 0;
    input.focus();
    change();
  });
  const box = html("div", { class: "rotate-steer", role: "group", "aria-label": "Steering" }, reason, slider, words, note, output);
  store.watch(({ mode, shown, selected, text }, before) => {
    box.hidden = mode !== "live";
    const why = reasonNotToSteer(shown, selected);
    reason.textContent = why;
    reason.hidden = !why;
    slider.hidden = words.hidden = Boolean(why);
    label.textContent = `Steer along channel ${selected + 1}`;
    if (shown !== before.shown || selected !== before.selected || text !== before.text) clear();
  });
  return box;
}

/** Spaces stay, for reading; line ends are seen. */
const inOneLine = (text) => text.replaceAll("\n", "⏎");

function draw({ next, divergence, before, after }, strength) {
  const steered = strength !== 0;
  return [
    html("p", { class: "rotate-heading" }, "How the model goes on"),
    html(
      "dl",
      { class: "rotate-goes-on" },
      html("dt", {}, "by itself"),
      html("dd", {}, inOneLine(before)),
      steered && html("dt", {}, "steered"),
      steered && html("dd", {}, inOneLine(after)),
    ),
    steered && html("p", { class: "rotate-muted" }, `KL divergence of the next token: ${number(divergence)} nats.`),
    steered ? tableOfNext(next, "Next tokens that change most, and the likeliest", "steered") : tableOfNext(next, "The likeliest next tokens"),
  ].filter(Boolean);
}

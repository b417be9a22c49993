import { html, number, uniqueId } from "./dom.js";
import { strip } from "./strip.js";
import { concise } from "./tokens.js";

/**
 * A neuron on text, as Python wrote it in rotate_core/explorer/passages.py. Activations are whole numbers, in base64,
 * at all tokens of all passages: times `scale`.
 *
 * @typedef {object} Passages
 * @property {string} text what the text is called
 * @property {number} nTokens
 * @property {number} nArticles
 * @property {number} nRandom random directions beside each channel
 * @property {number} scale
 * @property {string} before
 * @property {{title: string, peak: number, tokens: string[]}[]} passages
 * @property {{after?: string, left?: number, random?: number, tokens?: string[], writes?: number[]}[]} channels of gate
 *   and in: activations without the channel, and how much is left at the peaks. Of out: what is written towards the
 *   tokens as it is, without the channel, without a random direction.
 */

/** @returns {number[][]} activations, by passage */
export function activationsOf(text, { scale, passages }) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const whole = new Int16Array(bytes.buffer);
  const n = passages[0]?.tokens.length;
  return passages.map((_, i) => Array.from(whole.subarray(i * n, (i + 1) * n), (value) => value * scale));
}

/** How the passages were chosen. */
export function rule({ text, nTokens, nArticles, passages }, nPositive) {
  const where = `held-out text (${text}; ${nTokens.toLocaleString("en")} tokens)`;
  if (!passages.length) return `The neuron is never active on ${where}: there is no passage to show.`;
  const sides = [[nPositive, "positive"], [passages.length - nPositive, "negative"]].filter(([n]) => n);
  const largest = sides.map(([n, side]) => `${n} largest ${side}`).join(" and ");
  const few = passages.length < 10 ? ` They are fewer than ten: the text has ${nArticles} ${nArticles === 1 ? "article" : "articles"}.` : "";
  return (
    `Passages of ${where} around the neuron's ${largest} activations, no article twice on a side. ` +
    `They were picked for being extreme, and do not show what the neuron usually does. Blue: positive; orange, underlined: negative; bold: the peak.${few}`
  );
}

const signed = (value) => `${value > 0 ? "+" : ""}${number(value)}`;
const percent = (share) => `${number(100 * share, 0)}%`;
const named = ({ tokens }) => tokens.slice(0, 3).map(concise).join(" ");

/** What taking a channel out does to all passages, beside random directions. */
export function loss({ channels, nRandom }, k) {
  const { left, random, writes } = channels[k];
  const chance = `without a random direction at the same cosine with the neuron, ${writes ? signed(writes[2]) : percent(random)} (mean of ${nRandom})`;
  if (!writes) {
    const turned = left < 0 ? " Below 0 its sign turns." : "";
    return `Without channel ${k + 1}, ${percent(left)} of the activation at these peaks is left; ${chance}.${turned}`;
  }
  return (
    `The colours stay: an out vector has no part in when its neuron is active. At an activation of 1 it writes ` +
    `${signed(writes[0])} towards ${named(channels[k])} (mean projection on the channel's furthest tokens, less that on all); ` +
    `without channel ${k + 1}, ${signed(writes[1])}; ${chance}.`
  );
}

/** The passages where a stored neuron is most active, as it is and without one of its channels. */
export function passagesView(store) {
  const name = uniqueId("without");
  const choices = html("div", { class: "rotate-row rotate-without", role: "radiogroup", "aria-label": "Take out" });
  const chosen = html("p", { class: "rotate-muted" });
  const lost = html("p", { "aria-live": "polite" });
  const sides = html("div", { class: "rotate-passages" });
  const heading = html("p", { class: "rotate-heading" }, "On text, where the neuron is most active");
  const box = html("div", { class: "rotate-on-text", role: "group", "aria-label": "On text" }, heading, chosen, choices, lost, sides);
  let without = false;

  const choice = (label, value) => {
    const onchange = () => {
      without = value !== null;
      if (without && value !== store.state.selected) store.set({ selected: value });
      else show(store.state);
    };
    return html("label", {}, html("input", { type: "radio", name, value: value ?? "", onchange }), label);
  };

  function show({ stored, shown, selected }) {
    const { text } = stored;
    const k = without && shown === stored && selected !== null ? selected : null;
    for (const input of choices.querySelectorAll("input")) input.checked = input.value === String(k ?? "");
    lost.textContent = k === null ? "" : loss(text, k);
    if (shown !== stored) lost.textContent = "What is left without a channel is known of the stored channels alone.";
    lost.hidden = !lost.textContent;
    const channel = text.channels[k];
    const before = activationsOf(text.before, text);
    const after = channel?.after ? activationsOf(channel.after, text) : before;
    const most = Math.max(...before.flat().map(Math.abs));
    const items = text.passages.map(({ title, peak, tokens }, i) => {
      const said = html("p", { class: "rotate-muted" }, `${title}: ${atPeak(before[i][peak], after[i][peak], channel)}`);
      return { side: Math.sign(before[i][peak]), item: html("li", {}, said, strip(tokens, after[i], most, peak)) };
    });
    const [plus, minus] = [1, -1].map((sign) => items.filter(({ side }) => side === sign).map(({ item }) => item));
    chosen.textContent = rule(text, plus.length);
    sides.replaceChildren(html("ol", {}, ...plus), html("ol", {}, ...minus));
  }

  store.watch((state, before) => {
    const { stored, shown, selected } = state;
    box.hidden = !stored?.text;
    if (box.hidden) return;
    if (stored !== before.stored || shown !== before.shown) {
      without &&= stored === before.stored;
      const channels = shown === stored ? stored.text.channels : []; // they are of no others
      choices.replaceChildren(choice("nothing", null), ...channels.map((_, i) => choice(`channel ${i + 1}`, i)));
      choices.prepend(html("span", { "aria-hidden": "true" }, "Take out"));
      choices.hidden = !channels.length;
    } else if (selected === before.selected) return;
    show(state);
  });
  return box;
}

/** The activation at a peak, before and after; of out, what is written there. */
function atPeak(was, is, { after, writes } = {}) {
  if (after) return `${signed(was)} → ${signed(is)}`;
  return writes ? `${signed(was)}, writes ${signed(was * writes[0])} → ${signed(was * writes[1])}` : signed(was);
}

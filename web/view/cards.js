import { html, number } from "./dom.js";
import { concise } from "./tokens.js";

const N_TOKENS = 12;
const SAME = 0.9;

/** A card a channel. Choosing one shows its projection in the histogram. */
export function cardsView(store) {
  const list = html("ol", { class: "rotate-cards", "aria-label": "Channels" });
  store.watch(({ shown, selected, matches, expected, running }, before) => {
    if (shown !== before.shown || matches !== before.matches || expected !== before.expected || !running !== !before.running) {
      const cards = (shown?.channels ?? []).map((channel, i) => card(store, channel, i, matches?.[i]));
      const pending = running ? Math.max(expected - cards.length, 0) : 0;
      for (let i = 0; i < pending; i++) {
        list.ariaBusy = "true";
        cards.push(html("li", { class: "rotate-card rotate-pending", "aria-hidden": "true" }));
      }
      list.ariaBusy = String(pending > 0);
      list.replaceChildren(...cards);
    }
    list.querySelectorAll("button.rotate-choose").forEach((button, i) => {
      button.setAttribute("aria-pressed", String(i === selected));
      button.closest("li").classList.toggle("rotate-selected", i === selected);
    });
  });
  return list;
}

function card(store, channel, i, match) {
  const { info, shown } = store.state;
  const weak = isKnown(channel.q) && !(channel.q < info.significant);
  const choose = () => {
    const { selected } = store.state;
    store.set({ selected: selected === i ? null : i });
  };
  return html(
    "li",
    { class: `rotate-card${weak ? " rotate-weak" : ""}` },
    html(
      "button",
      { class: "rotate-choose", type: "button", onclick: choose, title: "Show this channel's projection" },
      html("span", {}, `Channel ${i + 1}`),
      html("span", { class: "rotate-tail" }, { 1: "+ tail", "-1": "− tail", 0: "± both tails" }[channel.tail]),
    ),
    html("p", { class: "rotate-tokens" }, ...tokens(channel)),
    html(
      "dl",
      {},
      ...fact("kurtosis", number(channel.kurtosis, 1), "Excess kurtosis of the channel's projection"),
      ...fact("cosine", number(channel.cosine), "Cosine with the neuron"),
      ...fact("support", number(channel.support), "Mean z-score of the channel's tokens in the neuron's own projection"),
      ...fact("q-value", small(channel.q), "Share of false ones to expect among the atlas's channels that stand out as far as this one; – where there is no atlas to take it over"),
      ...fact("masked", String(channel.nMasked), "Tokens that this channel takes out for the next ones"),
    ),
    weak && html("p", { class: "rotate-note" }, "Not told apart from channels of random vectors."),
    isKnown(channel.p) && !isKnown(channel.q) && html("p", { class: "rotate-note" }, alone(channel, shown)),
    channel.converged === false && html("p", { class: "rotate-note" }, "Stopped before it had converged."),
    match && html("p", { class: "rotate-note rotate-match" }, sameness(match)),
  );
}

/** Top tokens, larger the further out; the two tails differ in sign, colour and underline. */
function tokens({ top }) {
  const most = Math.abs(top[0]?.[1] ?? 1);
  return top.slice(0, N_TOKENS).flatMap(([token, z]) => {
    const size = 0.8 + 0.6 * Math.min(Math.abs(z) / most, 1) ** 1.5;
    const side = z < 0 ? "minus" : "plus";
    return [
      html(
        "span",
        { class: `rotate-token rotate-${side}`, style: `font-size:${size.toFixed(2)}em`, title: `z = ${number(z, 1)}` },
        z < 0 && html("span", { class: "rotate-sign" }, "−"),
        concise(token),
      ),
      " ",
    ];
  });
}

const fact = (name, value, title) => [html("dt", { title }, name), html("dd", {}, value)];

const isKnown = (value) => value !== null && value !== undefined;

/** A p- or q-value. */
export function small(value) {
  if (!isKnown(value)) return "–";
  return value < 0.001 ? "< 0.001" : number(value, value < 0.1 ? 3 : 2);
}

/** What a p-value says where no atlas has the neuron's layer and kind. */
function alone({ p }, { nNull }) {
  const equals = p < 0.001 ? "p" : "p =";
  return `${equals} ${small(p)} against ${nNull} matched vectors; no q-value: nothing to adjust over.`;
}

function sameness({ channel, cosine }) {
  if (cosine >= SAME) return `as stored channel ${channel + 1} (cosine ${number(cosine)})`;
  return `new; the closest stored one is ${channel + 1} (cosine ${number(cosine)})`;
}

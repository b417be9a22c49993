import { focusedWithin, html, number } from "./dom.js";
import { concise } from "./tokens.js";
import { verdict } from "./verdict.js";

const N_TOKENS = 12;
/** What q ranks by, in words: see rotate_core/null/evidence.py. */
const STATISTICS = {
  core: "Mean z-score, in the neuron's own projection, of the ten tokens of this channel's tail that are furthest out there; tokens of earlier channels do not count. p and q rank channels by it",
};

/** A card a channel. Choosing one shows its projection in the histogram. */
export function cardsView(store) {
  const list = html("ol", { class: "rotate-cards", "aria-label": "Channels" });
  const buttons = () => [...list.querySelectorAll("button.rotate-choose")];
  store.watch(({ shown, selected, matches, expected, running }, before) => {
    if (shown !== before.shown || matches !== before.matches || expected !== before.expected || !running !== !before.running) {
      const focused = buttons().indexOf(focusedWithin(list));
      const cards = (shown?.channels ?? []).map((channel, i) => card(store, channel, i, matches?.[i]));
      const pending = running?.rotates ? Math.max(expected - cards.length, 0) : 0;
      for (let i = 0; i < pending; i++) {
        cards.push(html("li", { class: "rotate-card rotate-pending", "aria-hidden": "true" }));
      }
      list.ariaBusy = String(pending > 0);
      list.replaceChildren(...cards);
      if (focused >= 0) buttons()[Math.min(focused, buttons().length - 1)]?.focus({ preventScroll: true });
    }
    buttons().forEach((button, i) => {
      button.setAttribute("aria-pressed", String(i === selected));
      button.closest("li").classList.toggle("rotate-selected", i === selected);
    });
  });
  return list;
}

function card(store, channel, i, match) {
  const { info, shown } = store.state;
  const choose = () => {
    const { selected } = store.state;
    store.set({ selected: selected === i ? null : i });
  };
  const look = verdict(channel, shown, info.significant);
  return html(
    "li",
    { class: `rotate-card rotate-look rotate-${look}` },
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
      ...fact(shown.statistic, number(channel.score ?? NaN), STATISTICS[shown.statistic] ?? "p and q rank channels by it"),
      ...fact("q-value", small(channel.q), "Share of false ones to expect among the atlas's channels that stand out as far as this one; – where there is no atlas to take it over"),
      ...fact("masked", String(channel.nMasked), "Tokens that this channel takes out for the next ones"),
    ),
    html("p", { class: "rotate-note" }, inWords(look, channel, shown)),
    channel.converged === false && html("p", { class: "rotate-note" }, "Stopped before it had converged."),
    match && html("p", { class: "rotate-note rotate-match" }, sameness(match)),
  );
}

/** Top tokens, larger the further out; those of the negative side have a sign and an underline. */
function tokens({ top }) {
  const most = Math.abs(top[0]?.[1] ?? 1);
  return top.slice(0, N_TOKENS).flatMap(([token, z]) => {
    const size = 0.8 + 0.6 * Math.min(Math.abs(z) / most, 1) ** 1.5;
    return [
      html(
        "span",
        { class: `rotate-token${z < 0 ? " rotate-minus" : ""}`, style: `font-size:${size.toFixed(2)}em`, title: `z = ${number(z, 1)}` },
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

/** The look of the card once more, for who does not see it, and what a p-value says alone. */
function inWords(look, { p, q }, { nNull }) {
  const words = {
    own: "Stands out from random vectors.",
    random: "Not told apart from channels of random vectors.",
    untested: "Untested.",
  }[look];
  if (!isKnown(p) || isKnown(q)) return words;
  const equals = p < 0.001 ? "p" : "p =";
  return `${words} ${equals} ${small(p)} against ${nNull} random vectors; no q-value: nothing to adjust over.`;
}

function sameness({ pair, channel, cosine }) {
  if (pair !== null) return `stored channel ${pair + 1} (cosine ${number(cosine, 3)})`;
  return Number.isFinite(cosine) ? `new; the closest stored one is ${channel + 1} (cosine ${number(cosine)})` : "new";
}

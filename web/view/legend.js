import { html } from "./dom.js";
import { tooFew, verdict } from "./verdict.js";

const WORDS = {
  own: "stands out from random vectors",
  random: "does not",
  untested: "untested",
};

/** The three looks of a card, how many there are of each, and why some are untested. */
export function legendView(store) {
  const keys = Object.fromEntries(Object.keys(WORDS).map((name) => [name, html("li", { class: `rotate-look rotate-${name}` })]));
  const reason = html("p", { class: "rotate-muted" });
  const box = html(
    "div",
    { class: "rotate-legend" },
    html("ul", { "aria-label": "What is known of the channels" }, ...Object.values(keys)),
    reason,
  );
  store.watch(({ shown, stored, info }, before) => {
    if (shown === before.shown) return;
    box.hidden = !shown;
    if (!shown) return;
    const counts = { own: 0, random: 0, untested: 0 };
    for (const channel of shown.channels) counts[verdict(channel, shown, info.significant)] += 1;
    for (const [name, key] of Object.entries(keys)) key.textContent = `${WORDS[name]}: ${counts[name]}`;
    reason.textContent = whyUntested(shown, stored, counts.untested, info.significant);
    reason.hidden = !reason.textContent;
  });
  return box;
}

/** What a reader should know about the looks; "" where they say it all. */
export function whyUntested(shown, stored, nUntested, significant) {
  const few = tooFew(shown, significant);
  if (few || !nUntested) return few;
  if (shown === stored || !shown.nNull) return "Untested: no random vectors were rotated to compare with.";
  return "Untested: random vectors were rotated with the stored settings, and say nothing of other settings or of channels that were not stored.";
}

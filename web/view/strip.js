import { html, number } from "./dom.js";
import { concise } from "./tokens.js";

/** Percent of the colour in a token's ground, and from which on there is one to see, and a sign. */
const [STRONGEST, SEEN] = [55, 3];
const STEPS = { ArrowLeft: -1, ArrowRight: 1 };

/** A token as it stands in a text: the space in front of it, and the rest with all that cannot be seen made visible. */
export function inText(token) {
  const spaced = token.length > 1 && token.startsWith(" ");
  return spaced ? [" ", concise(token.slice(1))] : ["", concise(token)];
}

/**
 * A text, each token on a ground as strong as its activation; the value is seen where the pointer or the focus is, and
 * arrow keys lead from token to token.
 *
 * @param {string[]} tokens
 * @param {number[]} activations
 * @param {number} most the activation with the strongest ground
 * @param {number} [peak] the token to point out
 */
export function strip(tokens, activations, most, peak) {
  const first = peak ?? 0;
  const marks = tokens.map((token, i) => {
    const value = number(activations[i]);
    const strength = Math.min(Math.abs(activations[i]) / most, 1) * STRONGEST;
    const side = activations[i] < 0 && strength >= SEEN ? "minus" : "plus";
    return html(
      "span",
      {
        class: `rotate-activation rotate-${side}${i === peak ? " rotate-peak" : ""}`,
        style: `--strength:${strength < SEEN ? 0 : strength.toFixed(0)}%`,
        "data-value": value,
        tabindex: i === first ? 0 : -1,
      },
      inText(token)[1],
      html("span", { class: "rotate-hidden" }, ` ${value}`),
    );
  });
  const onkeydown = (event) => {
    const at = marks.indexOf(event.target);
    const next = marks[at + STEPS[event.key]];
    if (!next) return;
    event.preventDefault();
    marks[at].tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  };
  return html("p", { class: "rotate-strip", onkeydown }, ...marks.flatMap((mark, i) => [inText(tokens[i])[0], mark]));
}

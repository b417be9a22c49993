/** Tokens with all that cannot be seen made visible: rotate_core/models/tokens.py, visible(). */

const SYMBOLS = { " ": "␣", "\n": "⏎", "\r": "␍", "\t": "⇥", "\u00a0": "⍽" };

export function visible(token) {
  if (token === "") return "∅";
  const shown = Array.from(token, (character) => {
    if (SYMBOLS[character]) return SYMBOLS[character];
    if (!/[\p{C}\p{Z}]/u.test(character)) return character;
    return `<U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}>`;
  }).join("");
  return /^\p{M}/u.test(token) ? `◌${shown}` : shown;
}

/** For figures: the same with long runs of one sign counted, "⏎␣␣␣␣" as "⏎␣×4". */
export const concise = (token) =>
  visible(token).replace(/([␣⏎␍⇥])\1{2,}/gu, (run, sign) => `${sign}×${run.length}`);

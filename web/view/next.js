import { html, number } from "./dom.js";
import { concise } from "./tokens.js";

/** Next tokens with their probabilities; where there is a second one, under its name, both and the change. */
export function tableOfNext(next, caption, second) {
  const percent = (x) => `${number(100 * x, x < 0.1 ? 2 : 1)} %`;
  const head = ["next token", "probability", second, second && "change"].filter(Boolean);
  const rows = next.map(({ token, before, after }) =>
    html(
      "tr",
      {},
      html("th", { scope: "row" }, concise(token)),
      html("td", {}, percent(before)),
      second && html("td", {}, percent(after)),
      second && html("td", {}, `${after >= before ? "+" : ""}${number(100 * (after - before), 2)}`),
    ),
  );
  return html(
    "table",
    {},
    html("caption", {}, caption),
    html("thead", {}, html("tr", {}, ...head.map((text) => html("th", { scope: "col" }, text)))),
    html("tbody", {}, ...rows),
  );
}

import { html, number, uniqueId } from "./dom.js";
import { concise } from "./tokens.js";

/** Only with Python: the neuron on a text of the reader's, with and without one of its channels. */
export function promptView(store, { runPrompt }) {
  const [textId, channelId] = [uniqueId("prompt"), uniqueId("ablate")];
  const text = html("textarea", { id: textId, rows: 2, spellcheck: "false" });
  text.value = "When the cat saw the mouse, it";
  const channel = html("select", { id: channelId });
  const output = html("div", { class: "rotate-prompt-output", "aria-live": "polite" });
  const onsubmit = async (event) => {
    event.preventDefault();
    if (!text.value) return;
    const result = await runPrompt(text.value, channel.value === "" ? null : Number(channel.value));
    if (result) output.replaceChildren(...draw(result));
  };
  const box = html(
    "form",
    { class: "rotate-prompt", onsubmit },
    html("label", { for: textId }, "Try the neuron on a text"),
    text,
    html("div", { class: "rotate-row" }, html("label", { for: channelId }, "Switch off"), channel, html("button", { type: "submit" }, "Run")),
    output,
  );
  store.watch(({ mode, shown }, before) => {
    box.hidden = mode !== "live";
    if (shown === before.shown) return;
    const options = (shown?.channels ?? []).map((_, i) => html("option", { value: i }, `channel ${i + 1}`));
    channel.replaceChildren(html("option", { value: "" }, "nothing"), ...options);
    output.replaceChildren();
  });
  return box;
}

function draw({ tokens, before, after, next }) {
  const all = [...before, ...(after ?? [])];
  const most = Math.max(...all.map(Math.abs), 1e-9);
  return [
    html("p", { class: "rotate-heading" }, "The neuron's activation at each token"),
    strip(tokens, before, most),
    after && html("p", { class: "rotate-heading" }, "… without the channel"),
    after && strip(tokens, after, most),
    table(next, Boolean(after)),
  ].filter(Boolean);
}

function strip(tokens, activations, most) {
  const spans = tokens.flatMap((token, i) => {
    const strength = (Math.abs(activations[i]) / most) * 0.55;
    const side = activations[i] < 0 ? "minus" : "plus";
    return [
      html(
        "span",
        { class: `rotate-activation rotate-${side}`, style: `--strength:${(100 * strength).toFixed(0)}%`, title: number(activations[i]) },
        concise(token),
        html("span", { class: "rotate-hidden" }, ` ${number(activations[i])}`),
      ),
      " ",
    ];
  });
  return html("p", { class: "rotate-strip" }, ...spans);
}

function table(next, ablated) {
  const percent = (x) => `${number(100 * x, x < 0.1 ? 2 : 1)} %`;
  const head = ["next token", "probability", ablated && "without", ablated && "change"].filter(Boolean);
  const rows = next.map(({ token, before, after }) =>
    html(
      "tr",
      {},
      html("th", { scope: "row" }, concise(token)),
      html("td", {}, percent(before)),
      ablated && html("td", {}, percent(after)),
      ablated && html("td", {}, `${after >= before ? "+" : ""}${number(100 * (after - before), 2)}`),
    ),
  );
  return html(
    "table",
    {},
    html("caption", {}, ablated ? "Next tokens that change most, and the likeliest" : "The likeliest next tokens"),
    html("thead", {}, html("tr", {}, ...head.map((text) => html("th", { scope: "col" }, text)))),
    html("tbody", {}, ...rows),
  );
}

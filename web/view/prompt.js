import { html, uniqueId } from "./dom.js";
import { tableOfNext } from "./next.js";
import { strip } from "./strip.js";

/** Only with Python: the neuron on a text of the reader's, with and without one of its channels. */
export function promptView(store, { runPrompt }) {
  const [textId, channelId] = [uniqueId("prompt"), uniqueId("ablate")];
  const oninput = () => store.set({ text: text.value });
  const text = html("textarea", { id: textId, rows: 2, spellcheck: "false", oninput });
  text.value = store.state.text;
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
    after
      ? tableOfNext(next, "Next tokens that change most, and the likeliest", "without")
      : tableOfNext(next, "The likeliest next tokens"),
  ].filter(Boolean);
}

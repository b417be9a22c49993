import { html, number } from "../view/dom.js";
import { concise } from "../view/tokens.js";

const MOST = 200;

/** All tokens of the chosen channel's tail, read when a channel is chosen. */
export function tailView(store, work) {
  const heading = html("h3");
  const list = html("p", { class: "rotate-tail-tokens" });
  const box = html("div", { class: "rotate-whole-tail", hidden: true }, heading, list);
  store.watch(async ({ atlas, shown, selected }, before) => {
    if (shown === before.shown && selected === before.selected) return;
    box.hidden = true;
    const channel = shown?.channels[selected];
    if (!channel) return;
    const tail = await work("Reading the channel's tail …", () => atlas.tail(shown, channel));
    if (!tail || store.state.shown !== shown || store.state.selected !== selected) return;
    const many = tail.length > MOST ? `, the first ${MOST} of them here` : "";
    heading.textContent = `Channel ${selected + 1}: ${tail.length.toLocaleString("en")} tokens in its tail${many}`;
    list.replaceChildren(
      ...tail.slice(0, MOST).flatMap(([token, z]) => [html("span", {}, concise(token), html("small", {}, ` ${number(z, 1)}`)), " "]),
    );
    box.hidden = false;
  });
  return box;
}

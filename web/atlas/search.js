import { small } from "../view/cards.js";
import { number } from "../view/dom.js";
import { searchForm } from "../view/search.js";
import { concise } from "../view/tokens.js";

/** Channels of the atlas with a token in their tail; a click shows the neuron. */
export function searchView(store, actions) {
  const form = searchForm(actions, {
    placeholder: "a whole token, such as until",
    label: "Channels found",
    none: "No channel of this atlas has it in its tail.",
    describe,
  });
  const results = form.querySelector(".rotate-results");
  store.watch(({ atlas }, before) => atlas !== before.atlas && results.replaceChildren());
  return form;
}

function describe({ layer, kind, index, channel, token, z, q }) {
  const measured = q === null ? "" : `, q ${small(q).replace(/^(?=\d)/, "= ")}`;
  return `layer ${layer}, ${kind}, ${index}, channel ${channel + 1}: ${concise(token)} ${number(z, 1)}${measured}`;
}

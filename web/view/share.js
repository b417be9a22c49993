import { html } from "./dom.js";
import { writeLink } from "./link.js";
import { asPython } from "./python.js";

/** The same again elsewhere: as five lines of Python, or as an address. */
export function shareView(store, { say }) {
  const python = ({ info, shown, python }) => asPython(info.model, shown, shown.made, python);
  const link = ({ current, selected, settings, defaults }) => {
    const url = new URL(location.href);
    url.hash = writeLink(current, selected, settings, defaults);
    return url.href;
  };
  const copy = (make, done) => async () => {
    if (!store.state.shown) return;
    const text = make(store.state);
    try {
      await navigator.clipboard.writeText(text);
      say(done);
    } catch {
      show(text);
    }
  };
  const fallback = html("textarea", { class: "rotate-code", rows: 5, readonly: true, hidden: true, "aria-label": "Copy this text" });
  function show(text) {
    fallback.value = text;
    fallback.hidden = false;
    fallback.select();
    say("The browser does not let this page copy: the text is selected, copy it by hand.");
  }
  return html(
    "div",
    { class: "rotate-share" },
    html("button", { type: "button", onclick: copy(python, "Copied five lines of Python.") }, "Copy as Python"),
    html("button", { type: "button", onclick: copy(link, "Copied the link.") }, "Copy link"),
    fallback,
  );
}

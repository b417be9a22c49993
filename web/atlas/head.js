import { html, uniqueId } from "../view/dom.js";
import { addressOf, chosen, served } from "./source.js";

/** Which atlas: an address or a folder; what it is; and how much of it was read. */
export function headView(store, { open }) {
  const id = uniqueId("address");
  const input = html("input", {
    id,
    type: "text",
    autocomplete: "off",
    spellcheck: "false",
    placeholder: "organisation/name, or a folder's address",
    value: new URLSearchParams(location.search).get("atlas") ?? "",
  });
  const onsubmit = (event) => {
    event.preventDefault();
    const text = input.value.trim();
    if (text) open((count) => served(addressOf(text, location.href), count));
  };
  const folder = html("input", {
    type: "file",
    webkitdirectory: true,
    hidden: true,
    onchange: () => {
      const files = Array.from(folder.files);
      folder.value = ""; // so that the same folder can be chosen again
      if (files.length) open((count) => chosen(files, count));
    },
  });
  const about = html("p", { class: "rotate-about" });
  const read = html("p", { class: "rotate-muted rotate-read" });
  store.watch(({ atlas, count }, before) => {
    if (atlas !== before.atlas) about.textContent = atlas ? describe(atlas) : "";
    read.textContent = count.whole + count.parts ? bytesRead(count) : "";
  });
  return html(
    "header",
    { class: "rotate-head" },
    html("h1", {}, "An atlas of vocabulary channels"),
    html(
      "form",
      { class: "rotate-row rotate-where", onsubmit },
      html("label", { for: id }, "Atlas"),
      input,
      html("button", { type: "submit" }, "Open"),
      html("button", { type: "button", onclick: () => folder.click() }, "Choose a folder"),
      folder,
    ),
    about,
    read,
  );
}

function describe({ manifest, groups }) {
  const n = groups.reduce((sum, { neurons }) => sum + neurons.size, 0);
  const null_ = manifest.null
    ? `compared with ${manifest.null.toLocaleString("en")} random vectors of each layer and kind.`
    : "without a null: nothing here says which of these are the neurons' own.";
  const each = manifest.n_channels === 1 ? "one channel" : `up to ${manifest.n_channels} channels`;
  return `${manifest.model}: ${n.toLocaleString("en")} neurons of ${groups.length} layers and kinds, ${each} each, ${null_}`;
}

/** What was read, in words. @param {import("./source.js").Count} count */
export function bytesRead({ whole, parts, sizes, size }) {
  const tables = sizes.size === 1 ? "1 table" : `${sizes.size} tables`;
  const plan = `${inUnits(whole)} of plan and token strings`;
  return sizes.size ? `Read: ${inUnits(parts)} of the ${inUnits(size)} that ${tables} have, and ${plan}.` : `Read: ${plan}.`;
}

export function inUnits(bytes) {
  if (bytes < 1000) return `${bytes} bytes`;
  const [unit, name] = bytes < 1e6 ? [1e3, "kB"] : [1e6, "MB"];
  const value = bytes / unit;
  return `${value.toFixed(value < 10 ? 1 : 0)} ${name}`;
}

/**
 * Keeps `data-theme` of an element at "light" or "dark": what the page around it says (the book,
 * JupyterLab, Voila), or else what the system prefers. Returns a function that stops it.
 */
export function followTheme(element) {
  const preference = matchMedia("(prefers-color-scheme: dark)");
  const update = () => (element.dataset.theme = pageTheme() ?? (preference.matches ? "dark" : "light"));
  const observer = new MutationObserver(update);
  const attributes = { attributes: true, attributeFilter: ["data-theme", "data-jp-theme-light"] };
  observer.observe(document.documentElement, attributes);
  observer.observe(document.body, attributes);
  preference.addEventListener("change", update);
  update();
  return () => {
    observer.disconnect();
    preference.removeEventListener("change", update);
  };
}

function pageTheme() {
  const book = document.documentElement.dataset.theme;
  if (book === "light" || book === "dark") return book;
  const jupyter = document.body.dataset.jpThemeLight;
  if (jupyter !== undefined) return jupyter === "false" ? "dark" : "light";
  return null;
}

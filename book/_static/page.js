document.addEventListener("DOMContentLoaded", () => {
  // A neuron's chip leads to the explorer. In Jupyter, where there is none, it leads nowhere.
  const root = document.documentElement.dataset.content_root ?? "./";
  for (const chip of document.querySelectorAll(".neuron-chip[data-explorer]")) {
    chip.href = `${root}executed/12_explorer.html${chip.dataset.explorer}`;
  }
  // The theme's sidebar is no landmark, and two of its buttons are called other than they read.
  const sidebar = document.querySelector(".bd-sidebar-primary");
  sidebar?.setAttribute("role", "navigation");
  sidebar?.setAttribute("aria-label", "Book");
  for (const button of document.querySelectorAll(".search-button-field, .theme-switch-button")) {
    button.removeAttribute("aria-label");
  }
  // Sphinx writes the parameters of a long signature as definitions without terms.
  for (const list of document.querySelectorAll("dt.sig > dl")) {
    list.setAttribute("role", "list");
    for (const item of list.children) item.setAttribute("role", "listitem");
  }
});

document.addEventListener("DOMContentLoaded", () => {
  // A neuron's chip leads to the explorer. In Jupyter, where there is none, it leads nowhere.
  const root = document.documentElement.dataset.content_root ?? "./";
  for (const chip of document.querySelectorAll(".neuron-chip[data-explorer]")) {
    chip.href = `${root}executed/12_explorer.html${chip.dataset.explorer}`;
  }
  // A long list of claims is folded on a phone: what is claimed, and the verdict.
  if (window.matchMedia("(max-width: 600px)").matches) {
    for (const card of document.querySelectorAll(".claims > li")) {
      if (card.parentElement.children.length > 3) card.firstElementChild.open = false;
    }
  }
  // The theme's sidebar is no landmark, and two of its buttons are called other than they read.
  const sidebar = document.querySelector(".bd-sidebar-primary");
  sidebar?.setAttribute("role", "navigation");
  sidebar?.setAttribute("aria-label", "Book");
  for (const button of document.querySelectorAll(".search-button-field, .theme-switch-button")) {
    button.removeAttribute("aria-label");
  }
  // On page one the book's name is the heading: the sidebar's link of that name is empty.
  for (const brand of document.querySelectorAll(".navbar-brand")) {
    if (!brand.textContent.trim() && !brand.querySelector("img")) brand.remove();
  }
  // Roles of a bibliography that are no longer to be used.
  for (const cited of document.querySelectorAll(".citation-list, .citation-list [role]")) {
    cited.removeAttribute("role");
  }
});

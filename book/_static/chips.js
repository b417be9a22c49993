// A neuron's chip leads to the explorer. In Jupyter, where there is none, it leads nowhere.
document.addEventListener("DOMContentLoaded", () => {
  const root = document.documentElement.dataset.content_root ?? "./";
  for (const chip of document.querySelectorAll(".neuron-chip[data-explorer]")) {
    chip.href = `${root}executed/12_explorer.html${chip.dataset.explorer}`;
  }
});

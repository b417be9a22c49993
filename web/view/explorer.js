/** The one file that the widget is: for anywidget its default export, for a plain page mount(). */
import { mountExplorer } from "./app.js";

function guarded(root, content, model) {
  try {
    return mountExplorer(root, content, model);
  } catch (error) {
    console.error(error);
    const text = document.createElement("p");
    text.textContent = `The explorer cannot be shown here: ${error.message}`;
    root.append(text);
    return undefined;
  }
}

export default {
  render({ model, el }) {
    return guarded(el, model.get("content"), model);
  },
};

/** Without Jupyter: rotate_core/explorer/page.py writes the script that calls this. */
export const mount = (root, content) => guarded(root, content, null);

/** The page's elements are made here, and only here. Text goes in as text nodes, never as HTML. */

const SVG = "http://www.w3.org/2000/svg";

/**
 * @param {string} tag
 * @param {Record<string, unknown>} attributes a function is a listener ("onclick"), false and
 *   undefined leave the attribute out
 * @param {...(Node | string | false | null | undefined)} children
 * @returns {HTMLElement}
 */
export function html(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same for SVG elements. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== undefined && value !== null) {
      element.setAttribute(name, String(value));
    }
  }
  element.append(...children.filter((child) => child !== false && child !== null && child !== undefined));
  return element;
}

/** What has the focus, if it is in the element; null if not. A widget may stand in a shadow tree. */
export function focusedWithin(element) {
  const { activeElement } = element.getRootNode();
  return element.contains(activeElement) ? activeElement : null;
}

let lastId = 0;

/** An id that no other explorer on the page has. */
export const uniqueId = (name) => `rotate-${name}-${++lastId}`;

/** A number with so many digits after the point, with a true minus sign. */
export const number = (x, digits = 2) =>
  Number.isFinite(x) ? x.toFixed(digits).replace("-", "−") : "–";

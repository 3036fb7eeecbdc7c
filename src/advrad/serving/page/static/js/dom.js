// Elements from names, properties and children. Texts become text nodes, so nothing that a person typed is ever markup.

const SVG = "http://www.w3.org/2000/svg";

function filled(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** An HTML element: `h("p", {class: "note"}, "text", otherElement)`. */
export function h(tag, properties = {}, ...children) {
  return filled(document.createElement(tag), properties, children);
}

/** An SVG element, as `h`. */
export function s(tag, properties = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), properties, children);
}

/** The element with an id; an error names the id where a template forgot it. */
export function byId(id) {
  const found = document.getElementById(id);
  if (found === null) throw new Error(`the page has no element #${id}`);
  return found;
}

/** Facts that the server wrote into the page: product, products, role, what the person may do. */
export const facts = JSON.parse(document.body.dataset.facts ?? "{}");

/** A setting that the browser remembers; without storage it lasts as long as the page. */
export function remembered(name, otherwise) {
  try {
    return localStorage.getItem(`advrad.${name}`) ?? otherwise;
  } catch {
    return otherwise;
  }
}

/** Remember a setting. */
export function remember(name, value) {
  try {
    localStorage.setItem(`advrad.${name}`, value);
  } catch {
    // Private windows may refuse storage; the setting then lasts as long as the page.
  }
}

/** Replace an element's content only where it differs, so that focus and scrolling stay where nothing changed. */
export function show(place, ...children) {
  const fresh = filled(document.createElement(place.tagName), {}, children);
  if (fresh.innerHTML !== place.innerHTML) place.replaceChildren(...fresh.childNodes);
}

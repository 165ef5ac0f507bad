// An element with properties and children; text is always text, never markup.
export function make(tag, properties = {}, ...children) {
  const { data, style, ...rest } = properties;
  const element = Object.assign(document.createElement(tag), rest);
  Object.assign(element.dataset, data);
  for (const [name, value] of Object.entries(style ?? {})) element.style.setProperty(name, value);
  element.append(...children.filter((child) => child != null));
  return element;
}

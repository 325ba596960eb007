// Building and changing the document. Nothing here reads markup: texts go in as text, and what has not changed is not
// touched, so that focus, selection and a screen reader's place stay where they are.

export type Child = globalThis.Node | string | null | undefined | false;
type Value = string | number | boolean | undefined | ((event: never) => void);

function fill(node: Element, values: Record<string, Value>, children: Child[]): void {
  for (const [name, value] of Object.entries(values)) {
    if (typeof value === "function") node.addEventListener(name.slice(2), value as EventListener);
    else if (value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children) if (child) node.append(child);
}

/** An element with its attributes, listeners (`onclick` and the like, with functions) and children. */
export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K, values: Record<string, Value> = {}, ...children: Child[]
): HTMLElementTagNameMap[K] {
  const node = document.createElement(tag);
  const role = ROLES[tag] ?? (tag === "th" ? (values.scope === "col" ? "columnheader" : "rowheader") : undefined);
  fill(node, { role, ...values }, children);
  return node;
}

/** Tables say that they are tables: laid out as cards on a phone they would be none to a screen reader. */
const ROLES: Record<string, string | undefined> = { table: "table", thead: "rowgroup", tbody: "rowgroup", tr: "row", td: "cell" };

export function svg<K extends keyof SVGElementTagNameMap>(
  tag: K, values: Record<string, Value> = {}, ...children: Child[]
): SVGElementTagNameMap[K] {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  fill(node, values, children);
  return node;
}

/** The text of a node that holds nothing else. */
export function put(node: Element, text: string): void {
  const first = node.firstChild;
  if (first instanceof Text && !first.nextSibling) {
    if (first.data !== text) first.data = text;
  } else if (first || text !== "") {
    node.replaceChildren(text);
  }
}

export function attr(node: Element, name: string, value: string | null): void {
  if (value === null) {
    if (node.hasAttribute(name)) node.removeAttribute(name);
  } else if (node.getAttribute(name) !== value) {
    node.setAttribute(name, value);
  }
}

export function show(node: HTMLElement, shown: boolean): void {
  if (node.hidden === shown) node.hidden = !shown;
}

/** A custom property of the style sheet: how scripts hand widths to it under a policy that knows no inline style. */
export function size(node: HTMLElement | SVGElement, name: string, value: string): void {
  if (node.style.getPropertyValue(name) !== value) node.style.setProperty(name, value);
}

/** A piece of the page that is made once and then kept true. */
export interface View<T> {
  node: Element;
  update(value: T): void;
}

/** A list of views below one parent, each kept by the key of its value. Nodes move only where the order changed. */
export class Keyed<T, V extends View<T> = View<T>> {
  readonly views = new Map<string, V>();

  constructor(
    private readonly parent: globalThis.Node,
    private readonly key: (value: T) => string,
    private readonly make: (value: T) => V,
    /** What stays in front of them. */
    private readonly after: globalThis.Node | null = null,
  ) {}

  update(values: readonly T[]): void {
    const wanted = new Set(values.map(this.key));
    for (const [key, view] of this.views) {
      if (wanted.has(key)) continue;
      view.node.remove();
      this.views.delete(key);
    }
    let next = this.after ? this.after.nextSibling : this.parent.firstChild;
    for (const value of values) {
      const key = this.key(value);
      let view = this.views.get(key);
      if (!view) this.views.set(key, (view = this.make(value)));
      view.update(value);
      if (view.node === next) next = next.nextSibling;
      else this.parent.insertBefore(view.node, next);
    }
  }
}

/** The shape of a level: what the colour says is said by form, too. */
export function mark(level: string): SVGSVGElement {
  const node = svg("svg", { class: "mark", viewBox: "0 0 12 12", "aria-hidden": "true" }, svg("path"));
  mend(node, level);
  return node;
}

const DISC = "M6 1.5a4.5 4.5 0 1 1 0 9a4.5 4.5 0 1 1 0-9z";
const SHAPES: Record<string, string> = {
  good: DISC,
  warning: "M6 1L11.4 10.6H.6z",
  bad: "M1.5 1.5h9v9h-9z",
  idle: DISC + "m0 2a2.5 2.5 0 1 0 0 5a2.5 2.5 0 1 0 0-5z",
};

/** Gives a mark another level. */
export function mend(node: SVGSVGElement, level: string): void {
  attr(node, "data-level", level);
  attr(node.firstElementChild!, "d", SHAPES[level] ?? SHAPES.idle!);
}

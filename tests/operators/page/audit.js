// What is wrong with the page, by WCAG 2.1: contrast (1.4.3), names and labels (1.3.1, 4.1.2),
// references, headings and tables (1.3.1), reflow (1.4.10).
const problems = [];

function color(text) {
  const [r, g, b, a = 1] = text.match(/[\d.]+/g).map(Number);
  return { rgb: [r, g, b], a };
}

function ground(element) {
  let under = [255, 255, 255];
  const stack = [];
  for (let one = element; one; one = one.parentElement) {
    stack.push(color(getComputedStyle(one).backgroundColor));
  }
  // The canvas is of the scheme that the page asked for.
  if (matchMedia("(prefers-color-scheme: dark)").matches) {
    under = [0, 0, 0];
  }
  for (const { rgb, a } of stack.reverse()) {
    under = under.map((value, place) => value * (1 - a) + rgb[place] * a);
  }
  return under;
}

function luminance(rgb) {
  const [r, g, b] = rgb.map((value) => {
    const part = value / 255;
    return part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

function contrast(element, style, what) {
  const under = ground(element);
  const { rgb, a } = color(style.color);
  const over = rgb.map((value, place) => value * a + under[place] * (1 - a));
  const [high, low] = [luminance(over), luminance(under)].sort((x, y) => y - x);
  const ratio = (high + 0.05) / (low + 0.05);
  let opacity = 1;
  for (let one = element; one; one = one.parentElement) {
    opacity *= Number(getComputedStyle(one).opacity);
  }
  if (ratio < 4.5 || opacity < 1) {
    problems.push(`contrast ${ratio.toFixed(2)} (opacity ${opacity}): ${what.trim().slice(0, 60)}`);
  }
}

let texts = 0;
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const node = walker.currentNode;
  const element = node.parentElement;
  if (!node.data.trim() || !element.checkVisibility({ visibilityProperty: true })) {
    continue;
  }
  texts += 1;
  contrast(element, getComputedStyle(element), node.data);
}
if (texts < 20) {
  problems.push(`only ${texts} texts are seen`);
}
for (const element of document.body.querySelectorAll("*")) {
  const before = getComputedStyle(element, "::before");
  if (!["none", "normal"].includes(before.content)) {
    contrast(element, before, `before ${before.content}`);
  }
}

const seen = new Set();
for (const { id, outerHTML } of document.querySelectorAll("[id]")) {
  if (seen.has(id)) {
    problems.push(`id twice: ${outerHTML.slice(0, 80)}`);
  }
  seen.add(id);
}
for (const attribute of ["aria-labelledby", "aria-describedby", "for", "form"]) {
  for (const element of document.querySelectorAll(`[${attribute}]`)) {
    for (const id of element.getAttribute(attribute).split(" ")) {
      if (!document.getElementById(id)) {
        problems.push(`${attribute} leads nowhere: ${id}`);
      }
    }
  }
}
for (const input of document.querySelectorAll("input, select, textarea")) {
  if (input.labels.length === 0 || !input.labels[0].innerText.trim()) {
    problems.push(`no label: ${input.outerHTML}`);
  }
  contrast(input, getComputedStyle(input), `value of ${input.id}`);
}
for (const element of document.querySelectorAll("button, a, progress")) {
  const name = element.getAttribute("aria-label") ?? element.innerText;
  if (!name.trim()) {
    problems.push(`no name: ${element.outerHTML}`);
  }
  // Who speaks to the machine says what is written there.
  if (element.tagName === "BUTTON" && !name.startsWith(element.innerText.trim())) {
    problems.push(`another name than its text: ${element.outerHTML}`);
  }
}
let level = 0;
for (const heading of document.querySelectorAll("h1, h2, h3, h4, h5, h6")) {
  const own = Number(heading.tagName[1]);
  if (own > level + 1) {
    problems.push(`a level of headings is left out: ${heading.innerText}`);
  }
  level = own;
}
for (const [what, count] of [["h1", 1], ["main", 1], ["html[lang]", 1], ["title", 1]]) {
  if (document.querySelectorAll(what).length !== count) {
    problems.push(`not one ${what}`);
  }
}
for (const table of document.querySelectorAll("table")) {
  if (!table.caption?.innerText.trim()) {
    problems.push(`no caption: ${table.outerHTML.slice(0, 80)}`);
  }
}
for (const cell of document.querySelectorAll("th:not([scope])")) {
  problems.push(`no scope: ${cell.outerHTML}`);
}
for (const element of document.querySelectorAll("[tabindex]")) {
  if (element.tabIndex > 0) {
    problems.push(`an order of its own: ${element.outerHTML.slice(0, 80)}`);
  }
}
const { scrollWidth, clientWidth } = document.documentElement;
if (scrollWidth > clientWidth) {
  problems.push(`wider than the window: ${scrollWidth} of ${clientWidth}`);
}
return problems;

"use strict";

const find = (name) => document.getElementById(name);
const canvas = find("picture");
const figure = document.querySelector("figure");
// Photographs kept on the page; the oldest ones are dropped.
const MOST = 24;

let model = null;
let words = WORDS[navigator.language.startsWith("zh") ? "zh" : "en"];
// Photographs on the page: file, name (without suffix), photograph (ImageBitmap or null), answer (JSON of the server),
// numbers (class of each pixel), visible (Set of class numbers), from (size before it was reduced), error, button.
const items = [];
let shown = null;
// The tint of the photograph that is shown.
let layer = null;
let queue = Promise.resolve();

async function start() {
  model = await (await fetch("/api/model")).json();
  showModel();
  const strip = find("examples").querySelector(".strip");
  strip.replaceChildren(...model.examples.map((name, number) => {
    const address = `/api/examples/${number}`;
    const button = element("button", {type: "button", title: name}, element("img", {src: address, alt: name}));
    button.addEventListener("click", async () => {
      const blob = await fetch(address).then((response) => response.blob()).catch(() => null);
      if (blob) take([new File([blob], name, {type: blob.type})]);
      else showStatus("", false, words.noAnswer);
    });
    return button;
  }));
  find("examples").hidden = !model.examples.length;
}

// ------------------------------------------------------------------------------------- photographs -> answers

function take(files) {
  const taken = Array.from(files, (file) => ({file, name: file.name.replace(/\.[^.]*$/, "") || "photograph"}));
  if (!taken.length) return;
  for (const item of taken) {
    item.button = element("button", {type: "button", title: item.name}, item.name);
    item.button.addEventListener("click", () => show(item));
    items.push(item);
    queue = queue.then(() => segment(item));
  }
  items.splice(0, items.length - MOST);
  find("taken").replaceChildren(...items.map((item) => item.button));
  find("taken").hidden = items.length < 2;
  show(taken.find((item) => items.includes(item)));
}

// Decode a photograph, once; null if the browser cannot.
function open(item) {
  item.opening ??= ready.then(() => createImageBitmap(item.file)).catch(() => null).then((photograph) => {
    item.photograph = photograph;
    if (photograph) item.button.replaceChildren(thumbnail(photograph, item.name));
    if (item === shown) show(item);
    return photograph;
  });
  return item.opening;
}

async function segment(item) {
  if (!items.includes(item)) return;
  item.started = true;
  try {
    await ready;
    if (item === shown) show(item);
    const photograph = await open(item);
    const form = new FormData();
    form.append("image", await reduced(item), "photograph");
    const response = await fetch("/api/predict", {method: "POST", body: form, headers: {Accept: "application/json"}});
    const answer = await response.json().catch(() => ({detail: words.status(response.status)}));
    if (!response.ok) throw new Error(answer.detail);
    item.numbers = await classNumbers(answer);
    // The original of a large photograph would stay in memory.
    if (photograph) {
      const size = {resizeWidth: answer.width, resizeHeight: answer.height, resizeQuality: "high"};
      item.photograph = await createImageBitmap(photograph, size);
      photograph.close();
    }
    // As in the overlays of `predict`, the background is not tinted at first.
    item.visible = new Set(answer.classes.map((one) => one.number).filter((number) => number !== 0));
    item.answer = answer;
  } catch (error) {
    // `fetch` throws a TypeError if the server cannot be reached.
    item.error = error instanceof TypeError ? words.noAnswer : error.message;
    item.button.classList.add("failed");
  }
  if (item === shown) show(item);
}

// The file to upload: a photograph above the server's limits is reduced.
async function reduced(item) {
  const {file, photograph} = item;
  const pixels = photograph ? photograph.width * photograph.height : 0;
  if (!photograph || (pixels <= model.limits.pixels && file.size <= model.limits.bytes)) return file;
  item.from = [photograph.width, photograph.height];
  const small = new OffscreenCanvas(...fitting(photograph));
  const context = small.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(photograph, 0, 0, small.width, small.height);
  return small.convertToBlob({type: "image/jpeg", quality: 0.92});
}

// [width, height] of a photograph within the server's limit of pixels.
function fitting(photograph) {
  const factor = Math.min(1, Math.sqrt(model.limits.pixels / (photograph.width * photograph.height)));
  return [photograph.width, photograph.height].map((side) => Math.max(1, Math.floor(side * factor)));
}

// Uint8Array with the class of each pixel, from the grey PNG.
async function classNumbers(answer) {
  const options = {colorSpaceConversion: "none", premultiplyAlpha: "none"};
  const grey = await createImageBitmap(pngOf(answer.numbers), options);
  const context = new OffscreenCanvas(grey.width, grey.height).getContext("2d", {willReadFrequently: true});
  context.drawImage(grey, 0, 0);
  const pixels = context.getImageData(0, 0, grey.width, grey.height).data;
  const numbers = new Uint8Array(pixels.length / 4);
  for (let index = 0; index < numbers.length; index++) numbers[index] = pixels[4 * index];
  return numbers;
}

function pngOf(text) {
  return new Blob([Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))], {type: "image/png"});
}

// ------------------------------------------------------------------------------------- answer -> picture

// Show a photograph: as it is while it waits, tinted when it is answered.
function show(item) {
  shown = item;
  for (const one of items) one.button.setAttribute("aria-pressed", String(one === item));
  const {answer, error, from} = item;
  if (answer) showStatus(words.done(answer.width, answer.height, answer.seconds) + (from ? words.reduced(...from) : ""), false);
  else if (error) showStatus("", false, error);
  else showStatus(item.started ? words.segmenting : words.waiting, true);
  find("result").hidden = !answer;
  find("pointed").hidden = true;
  find("divide").parentElement.hidden = !answer;
  figure.hidden = !answer && !item.photograph;
  document.body.classList.add("answered");
  layer = null;
  if (answer) {
    find("known").open = false;
    showClasses();
    tint();
  }
  draw();
  open(item);
}

// Draw the photograph, the tint to the right of the divider, and the divider.
function draw() {
  if (figure.hidden) return;
  const {photograph, answer, visible} = shown;
  [canvas.width, canvas.height] = answer ? [answer.width, answer.height] : fitting(photograph);
  // Fill the available space, also with small photographs.
  figure.style.width = `min(100%, ${78 * canvas.width / canvas.height}vh)`;
  drawPicture(canvas, find("divide").value / 100);
  const names = answer ? answer.classes.filter((one) => visible.has(one.number)).map((one) => `${one.name} ${percent(one)}`) : [];
  canvas.setAttribute("aria-label", answer ? words.tinted(names.join(", ") || words.nothing) : words.photograph);
}

// Draw onto a canvas; `divide`, 0..1, is the share of its width that shows the photograph alone.
function drawPicture(target, divide) {
  const {photograph} = shown;
  const context = target.getContext("2d");
  // In formats that the browser cannot decode, such as TIFF, the mask is drawn on grey.
  context.fillStyle = "#808080";
  context.fillRect(0, 0, target.width, target.height);
  if (photograph) context.drawImage(photograph, 0, 0, target.width, target.height);
  const left = Math.round(divide * target.width);
  if (!layer || left === target.width) return;
  context.drawImage(layer, left, 0, target.width - left, target.height, left, 0, target.width - left, target.height);
  if (!left) return;
  const line = Math.max(1, Math.round(2 * target.width / (canvas.clientWidth || target.width)));
  context.fillStyle = "#ffffff";
  context.fillRect(left - line, 0, line, target.height);
}

// Set the layer of the visible classes' colours, stronger along their outlines.
function tint() {
  const {answer, numbers, visible} = shown;
  const {width, height} = answer;
  layer = new OffscreenCanvas(width, height);
  const context = layer.getContext("2d");
  const image = context.createImageData(width, height);
  const alpha = Math.round(2.55 * find("strength").value);
  const colors = new Map(answer.classes.map((one) => [one.number, one.color]));
  for (let index = 0; index < numbers.length; index++) {
    const number = numbers[index];
    if (!visible.has(number)) continue;
    const column = index % width;
    const edge = (column + 1 < width && numbers[index + 1] !== number) || (column && numbers[index - 1] !== number)
      || (index + width < numbers.length && numbers[index + width] !== number)
      || (index >= width && numbers[index - width] !== number);
    image.data.set(colors.get(number), 4 * index);
    image.data[4 * index + 3] = edge ? Math.min(255, alpha + 100) : alpha;
  }
  context.putImageData(image, 0, 0);
}

function thumbnail(photograph, name) {
  const small = element("canvas", {width: 128, height: 96, role: "img", ariaLabel: name});
  const factor = Math.max(small.width / photograph.width, small.height / photograph.height);
  const [width, height] = [photograph.width * factor, photograph.height * factor];
  small.getContext("2d").drawImage(photograph, (small.width - width) / 2, (small.height - height) / 2, width, height);
  return small;
}

// ------------------------------------------------------------------------------------- words

function showModel() {
  find("model").textContent = words.model(model.name, model.classes.length, model.metrics["mean IoU"]);
  find("limits").textContent = words.limits(model.limits.pixels);
  find("known").querySelector("summary").textContent = words.known(model.classes.length);
  find("known").querySelector("ul").replaceChildren(...model.classes.map((one) => element(
    "li", {}, swatchOf(one), element("span", {className: "name"}, one.name))));
}

function setWords(language) {
  words = WORDS[language];
  document.documentElement.lang = language;
  for (const one of document.querySelectorAll("[data-word]")) one.textContent = words[one.dataset.word];
  find("language").textContent = words.other;
  find("language").lang = language === "zh" ? "en" : "zh";
  if (model) showModel();
  if (shown) show(shown);
}

function showClasses() {
  find("classes").replaceChildren(...shown.answer.classes.map((one) => {
    const box = element("input", {type: "checkbox", checked: shown.visible.has(one.number)});
    box.dataset.number = one.number;
    const share = element("span", {className: "share"}, percent(one), element("small", {}, words.pixels(one.pixels)));
    return element("li", {}, element("label", {}, box, swatchOf(one), element("span", {className: "name"}, one.name), share));
  }));
}

function swatchOf(one) {
  const swatch = element("span", {className: "swatch"});
  swatch.style.backgroundColor = `rgb(${one.color.join(", ")})`;
  return swatch;
}

function percent(one) {
  return one.percent < 0.05 ? "<0.1 %" : `${one.percent.toFixed(1)} %`;
}

// Strings among the children are added as text, never as HTML, because class names come from files.
function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function showStatus(status, busy, error = "") {
  find("status").textContent = status;
  find("error").textContent = error;
  find("error").hidden = !error;
  document.body.classList.toggle("busy", busy);
}

// ------------------------------------------------------------------------------------- user input

function redraw() {
  tint();
  draw();
}

function setAll(visible) {
  shown.visible = new Set(visible ? shown.answer.classes.map((one) => one.number) : []);
  for (const box of find("classes").querySelectorAll("input")) box.checked = visible;
  redraw();
}

function save(blob, name) {
  const link = element("a", {href: URL.createObjectURL(blob), download: name});
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function savePicture() {
  const {width, height} = shown.answer;
  const whole = new OffscreenCanvas(width, height);
  drawPicture(whole, 0);
  const {name} = shown;
  whole.convertToBlob().then((blob) => save(blob, `${name}_overlay.png`));
}

// The class under the pointer, next to it.
function point(event) {
  if (!shown.answer) return;
  const box = canvas.getBoundingClientRect();
  const [across, down] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  const number = shown.numbers[Math.floor(down * canvas.height) * canvas.width + Math.floor(across * canvas.width)];
  const one = shown.answer.classes.find((other) => other.number === number);
  const label = find("pointed");
  label.hidden = !one;
  if (!one) return;
  label.replaceChildren(swatchOf(one), one.name);
  label.style.left = `${100 * across}%`;
  label.style.top = `${100 * down}%`;
  // On the side of the pointer where there is more room.
  label.classList.toggle("leftwards", across > 0.5);
}

find("file").addEventListener("change", (event) => {
  take(event.target.files);
  // The same file can be chosen again.
  event.target.value = "";
});
document.addEventListener("paste", (event) => take(event.clipboardData.files));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dragging");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dragging");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  take(event.dataTransfer.files);
});
find("classes").addEventListener("change", (event) => {
  const number = Number(event.target.dataset.number);
  if (event.target.checked) shown.visible.add(number);
  else shown.visible.delete(number);
  redraw();
});
find("all").addEventListener("click", () => setAll(true));
find("none").addEventListener("click", () => setAll(false));
find("strength").addEventListener("input", redraw);
find("divide").addEventListener("input", draw);
find("save-picture").addEventListener("click", savePicture);
find("save-mask").addEventListener("click", () => save(pngOf(shown.answer.mask), `${shown.name}.png`));
find("language").addEventListener("click", () => setWords(words === WORDS.zh ? "en" : "zh"));
canvas.addEventListener("pointermove", point);
canvas.addEventListener("pointerdown", point);
canvas.addEventListener("pointerleave", () => { find("pointed").hidden = true; });

setWords(words === WORDS.zh ? "zh" : "en");
const ready = start();
ready.catch(() => showStatus("", false, words.noAnswer));

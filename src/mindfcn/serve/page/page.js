"use strict";

const find = (name) => document.getElementById(name);
const canvas = find("picture");
const figure = canvas.parentElement;
const NO_ANSWER = "The server does not answer; is it still running?";

let limits = null;
// The displayed result: photograph (ImageBitmap or null), answer (JSON of the server), numbers (class of each pixel),
// visible (Set of class numbers), name (of the file, without suffix).
let shown = null;
let current = null;

async function start() {
  const model = await (await fetch("/api/model")).json();
  limits = model.limits;
  const score = model.metrics["mean IoU"];
  find("model").textContent = `${model.name}, ${model.classes.length} classes`
    + (score === undefined ? "" : `, mean IoU ${score.toFixed(3)} on its validation images`);
  find("limits").textContent = `The network takes up to ${limits.pixels / 1e6} million pixels; larger photographs are `
    + "reduced here first.";
}

// ------------------------------------------------------------------------------------- photograph -> answer

async function segment(file) {
  current?.abort();
  const request = current = new AbortController();
  showStatus("Segmenting ...", true);
  try {
    await ready;
    const photograph = await createImageBitmap(file).catch(() => null);
    const [upload, note] = await reduced(file, photograph);
    const form = new FormData();
    form.append("image", upload, "photograph");
    const response = await fetch("/api/predict", {method: "POST", body: form, signal: request.signal,
                                                  headers: {Accept: "application/json"}});
    const answer = await response.json().catch(() => ({detail: `The server answered with status ${response.status}`}));
    if (!response.ok) throw new Error(answer.detail);
    const numbers = await classNumbers(answer);
    if (request !== current) return;
    // As in the overlays of `predict`, the background is not tinted at first.
    const visible = new Set(answer.classes.map((one) => one.number).filter((number) => number !== 0));
    shown = {photograph, answer, numbers, visible, name: file.name.replace(/\.[^.]*$/, "") || "photograph"};
    showClasses();
    draw();
    showStatus(`${answer.width} × ${answer.height} pixels, ${answer.seconds.toFixed(2)} s${note}`, false);
  } catch (error) {
    if (request !== current) return;
    // `fetch` throws a TypeError if the server cannot be reached.
    showStatus("", false, error instanceof TypeError ? NO_ANSWER : error.message);
  }
}

// [file to upload, note]: a photograph above the server's limits is reduced.
async function reduced(file, photograph) {
  const pixels = photograph ? photograph.width * photograph.height : 0;
  if (!photograph || (pixels <= limits.pixels && file.size <= limits.bytes)) return [file, ""];
  const factor = Math.min(1, Math.sqrt(limits.pixels / pixels));
  const width = Math.max(1, Math.floor(photograph.width * factor));
  const height = Math.max(1, Math.floor(photograph.height * factor));
  const small = new OffscreenCanvas(width, height);
  const context = small.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(photograph, 0, 0, width, height);
  const blob = await small.convertToBlob({type: "image/jpeg", quality: 0.92});
  return [blob, `; reduced from ${photograph.width} × ${photograph.height}`];
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

function draw() {
  const {photograph, answer, visible} = shown;
  canvas.width = answer.width;
  canvas.height = answer.height;
  // Fill the available space, also with small photographs.
  canvas.style.width = `min(100%, ${78 * answer.width / answer.height}vh)`;
  const context = canvas.getContext("2d");
  // In formats that the browser cannot decode, such as TIFF, the mask is drawn on grey.
  context.fillStyle = "#808080";
  context.fillRect(0, 0, canvas.width, canvas.height);
  if (photograph) context.drawImage(photograph, 0, 0, canvas.width, canvas.height);
  context.drawImage(tint(), 0, 0);
  const names = answer.classes.filter((one) => visible.has(one.number)).map((one) => `${one.name} ${percent(one)}`);
  canvas.setAttribute("aria-label", `The photograph with tinted classes: ${names.join(", ") || "nothing"}`);
  figure.hidden = find("result").hidden = false;
  document.querySelector("main").classList.add("answered");
}

// The visible classes' colours, stronger along their outlines.
function tint() {
  const {answer, numbers, visible} = shown;
  const {width, height} = answer;
  const layer = new OffscreenCanvas(width, height);
  const context = layer.getContext("2d");
  const image = context.createImageData(width, height);
  const alpha = Math.round(2.55 * find("strength").value);
  const colors = new Map(answer.classes.map((one) => [one.number, one.colour]));
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
  return layer;
}

function showClasses() {
  find("classes").replaceChildren(...shown.answer.classes.map((one) => {
    const box = element("input", {type: "checkbox", checked: shown.visible.has(one.number)});
    box.dataset.number = one.number;
    const swatch = element("span", {className: "swatch"});
    swatch.style.backgroundColor = `rgb(${one.colour.join(", ")})`;
    const share = element("span", {className: "share"}, percent(one),
                          element("small", {}, `${one.pixels.toLocaleString("en")} pixels`));
    return element("li", {}, element("label", {}, box, swatch, element("span", {className: "name"}, one.name), share));
  }));
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

function setAll(visible) {
  shown.visible = new Set(visible ? shown.answer.classes.map((one) => one.number) : []);
  for (const box of find("classes").querySelectorAll("input")) box.checked = visible;
  draw();
}

function save(blob, name) {
  const link = element("a", {href: URL.createObjectURL(blob), download: name});
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// ------------------------------------------------------------------------------------- user input

function take(files) {
  const file = Array.from(files)[0];
  if (file) segment(file);
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
  draw();
});
find("all").addEventListener("click", () => setAll(true));
find("none").addEventListener("click", () => setAll(false));
find("strength").addEventListener("input", draw);
find("save-picture").addEventListener("click", () => canvas.toBlob((blob) => save(blob, `${shown.name}_overlay.png`)));
find("save-mask").addEventListener("click", () => save(pngOf(shown.answer.mask), `${shown.name}.png`));
canvas.addEventListener("pointermove", (event) => {
  const box = canvas.getBoundingClientRect();
  const column = Math.floor((event.clientX - box.left) / box.width * canvas.width);
  const row = Math.floor((event.clientY - box.top) / box.height * canvas.height);
  const number = shown.numbers[row * canvas.width + column];
  find("pointed").textContent = shown.answer.classes.find((one) => one.number === number)?.name ?? "";
});
canvas.addEventListener("pointerleave", () => { find("pointed").textContent = ""; });

const ready = start();
ready.catch(() => showStatus("", false, NO_ANSWER));

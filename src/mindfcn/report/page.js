"use strict";

// The buttons of a figure choose the mask that lies over its photograph; the first one shows the photograph alone.
function connect(figure) {
  const layers = [...figure.querySelectorAll(".layers img")];
  const buttons = [...figure.querySelectorAll("button")];
  const choose = (chosen) => {
    layers.forEach((layer, number) => layer.classList.toggle("chosen", number === chosen));
    buttons.forEach((button, number) => button.setAttribute("aria-pressed", String(number === chosen)));
  };
  buttons.forEach((button, number) => button.addEventListener("click", () => choose(number)));
  choose(layers.length - 1);
}

document.querySelectorAll(".shown").forEach(connect);

for (const gallery of document.querySelectorAll(".gallery")) {
  const slider = gallery.querySelector(".all input");
  slider.addEventListener("input", () => gallery.style.setProperty("--strength", slider.value));
  gallery.querySelectorAll(".all button").forEach((button, number) => button.addEventListener("click", () => {
    gallery.querySelectorAll(".shown .steps").forEach((steps) => steps.children[number].click());
  }));
}

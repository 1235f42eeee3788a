"use strict";

// A slider fades from one layer to the next: at whole numbers one layer is visible, between them two.
function connect(figure) {
  const slider = figure.querySelector("input");
  const layers = [...figure.querySelectorAll(".layers img")];
  const buttons = [...figure.querySelectorAll("button")];
  const names = buttons.map((button) => button.textContent);
  const show = () => {
    const place = Number(slider.value);
    layers.forEach((layer, number) => {
      layer.style.opacity = number === 0 ? 1 : Math.min(1, Math.max(0, place - number + 1));
    });
    buttons.forEach((button, number) => button.setAttribute("aria-pressed", String(number === place)));
    const between = names[Math.floor(place)] + " and " + names[Math.ceil(place)];
    slider.setAttribute("aria-valuetext", Number.isInteger(place) ? names[place] : between);
  };
  buttons.forEach((button, number) => button.addEventListener("click", () => {
    slider.value = number;
    show();
  }));
  slider.addEventListener("input", show);
  show();
}

document.querySelectorAll(".shown").forEach(connect);

for (const gallery of document.querySelectorAll(".gallery")) {
  gallery.querySelectorAll(".all button").forEach((button, number) => button.addEventListener("click", () => {
    gallery.querySelectorAll(".shown .steps").forEach((steps) => steps.children[number].click());
  }));
}

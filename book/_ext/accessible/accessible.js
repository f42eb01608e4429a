// The theme makes scrolling boxes focusable, but folded ones have no size yet. It checks again on a resize.
for (const name of ["toggle", "click"])
  document.addEventListener(name, ({target}) => {
    if (name === "toggle" || target.closest(".toggle")) dispatchEvent(new Event("resize"));
  }, true);

// On a phone the contents lie over the page: the drawer closes when a section is chosen.
document.addEventListener("click", ({target}) => {
  if (target.closest("a[href^='#']")) target.closest("dialog[open]")?.close();
});

// What the player and the live agent draw alike: numbers, and two Q-values with a bar for their difference.
globalThis.recdqnValues = (() => {
  const sides = ["left", "right"];
  const text = (value, digits) => value.toFixed(digits).replace("-", "\u2212");
  const put = (part, value) => {
    if (part.textContent !== value) part.textContent = value;
  };
  // Return a function that shows [left, right] and which side was taken. The bar is full where the difference is most.
  function values(box, names, most) {
    const shown = names.map((name) => box.querySelector(`[data-show=${name}]`)), bar = box.querySelector(".widget-bar i");
    const ends = sides.map((side) => box.querySelector(`[data-side=${side}]`));
    return ([left, right], taken) => {
      const gap = right - left, share = Math.min(50, 50 * Math.abs(gap) / most);
      [left, right, gap].forEach((value, k) => put(shown[k], text(value, 3)));
      ends.forEach((end, k) => end.classList.toggle("taken", k === taken));
      Object.assign(bar.style, { width: share + "%", marginLeft: (gap < 0 ? 50 - share : 50) + "%" });
    };
  }
  return { sides, text, put, values };
})();

for (const box of document.querySelectorAll(".stepper:not([data-live])")) {
  const panels = [...box.querySelectorAll(".stepper-panel")], state = box.dataset;
  const status = box.querySelector("[role=status]"), [previous, next] = box.querySelectorAll("button");
  const show = (quiet) => {
    for (const panel of panels) {
      panel.hidden = ["wiring", "step", "stage"].some((what) => panel.dataset[what] !== state[what]);
      if (!panel.hidden && !quiet) status.textContent = panel.querySelector(".stepper-stage").textContent;
    }
    for (const part of box.querySelectorAll("details")) {
      part.open = true;
      part.hidden = !part.querySelector(".stepper-panel:not([hidden])");
    }
    previous.setAttribute("aria-disabled", state.stage === "0");
    next.setAttribute("aria-disabled", state.stage === "4");
  };
  // The bars of a state that moved or was copied slide from their old place to the new one.
  const slide = () => {
    const panel = panels.find((panel) => !panel.hidden);
    const moves = [["root", "moved", "next"], ["next", "copied", "root"]];
    for (const [place, mark, source] of moves) {
      for (const cell of panel.querySelectorAll(`td[data-place=${place}][data-mark=${mark}]`)) {
        const bars = cell.querySelector(".stepper-bars");
        if (!bars) continue;
        const old = panel.querySelector(`td[data-place=${source}][data-key=${cell.dataset.key}]`);
        const shift = old.getBoundingClientRect().left - cell.getBoundingClientRect().left;
        bars.animate([{ transform: `translateX(${shift}px)` }, { transform: "none" }], { duration: 700, easing: "ease" });
      }
    }
  };
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const go = (stage) => {
    const before = +state.stage;
    state.stage = Math.max(0, Math.min(4, stage));
    show();
    if (+state.stage === before + 1 && !still.matches) slide();
  };
  previous.addEventListener("click", () => go(+state.stage - 1));
  next.addEventListener("click", () => go(+state.stage + 1));
  box.addEventListener("change", (event) => {
    state[event.target.dataset.choose] = event.target.value;
    show();
  });
  box.addEventListener("keydown", (event) => {
    const to = { ArrowLeft: +state.stage - 1, ArrowRight: +state.stage + 1, Home: 0, End: 4 }[event.key];
    if (to === undefined || event.target.type === "radio") return;
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    event.stopPropagation();
    go(to);
  });
  state.live = "";
  // A reload may have kept what was chosen.
  for (const input of box.querySelectorAll("input:checked")) state[input.dataset.choose] = input.value;
  box.querySelector(".stepper-controls").hidden = false;
  show(true);
}

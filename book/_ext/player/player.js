for (const box of document.querySelectorAll(".player:not([data-live])")) {
  const data = JSON.parse(box.parentNode.querySelector(".player-data").textContent);
  const last = data.steps - 1, span = 100, sides = ["left", "right"], now = box.dataset;
  const find = (what) => box.querySelector(what), all = (what) => [...box.querySelectorAll(what)];
  const slider = find("input[type=range]"), play = find("[data-go=play]"), picture = find(".player-picture");
  const status = find("[role=status]"), speed = find("select"), check = find("input[type=checkbox]");
  const text = (value, digits) => value.toFixed(digits).replace("-", "\u2212");
  const most = Math.max(...data.values.flat());
  const charts = ["cart", "pole"].map((name) => {
    const lines = { truth: data.truth[name], readout: data.readout[name], single: data.single[name] };
    const top = Math.ceil(Math.max(...[...lines.truth, ...lines.readout].map(Math.abs)) * 2) / 2;
    const part = find(`[data-chart=${name}]`), svg = part.querySelector("svg");
    svg.setAttribute("viewBox", `0 ${-top} ${span} ${2 * top}`);
    part.querySelector(".player-top").textContent = top;
    part.querySelector(".player-low").textContent = "\u2212" + top;
    line(svg.querySelector(".zero"), 0, 0, span, 0);
    return { name, lines, top, svg };
  });
  const units = all(".player-unit svg").map((svg) => {
    svg.setAttribute("viewBox", `0 0 ${span} 1`);
    const cells = Array.from({ length: span }, (_, x) => {
      const cell = document.createElementNS("http://www.w3.org/2000/svg", "rect");
      for (const [key, value] of Object.entries({ x, y: 0, width: 1, height: 1 })) cell.setAttribute(key, value);
      return svg.appendChild(cell);
    });
    const cursor = svg.appendChild(document.createElementNS("http://www.w3.org/2000/svg", "line"));
    cursor.setAttribute("class", "cursor");
    return { cells, cursor };
  });
  const strongest = Math.max(...data.hidden.flat().map(Math.abs));
  let from = -1, timer = 0;

  function line(element, x1, y1, x2, y2) {
    for (const [key, value] of Object.entries({ x1, y1, x2, y2 })) element.setAttribute(key, value);
  }
  function draw(first) {
    from = first;
    const end = Math.min(first + span, data.steps);
    find(".player-from").textContent = first;
    find(".player-to").textContent = end - 1;
    for (const { lines, svg } of charts) {
      for (const [name, values] of Object.entries(lines)) {
        const points = values.slice(first, end).map((value, k) => `${k + 0.5},${-value}`);
        svg.querySelector("." + name).setAttribute("points", points.join(" "));
      }
    }
    units.forEach(({ cells }, k) => cells.forEach((cell, x) => {
      const value = first + x < end ? data.hidden[first + x][k] : 0;
      cell.setAttribute("class", value < 0 ? "minus" : "plus");
      cell.setAttribute("fill-opacity", (Math.abs(value) / strongest).toFixed(2));
    }));
  }
  function show(step) {
    now.step = step = Math.max(0, Math.min(last, step));
    if (Math.floor(step / span) * span !== from) draw(Math.floor(step / span) * span);
    const x = step - from + 0.5, action = sides[data.actions[step]];
    now.action = action;
    sides.forEach((side, k) => {
      const row = find(`[data-side=${side}]`), value = data.values[step][k];
      now[k ? "qRight" : "qLeft"] = value;
      row.classList.toggle("taken", side === action);
      row.querySelector("i").style.width = Math.max(0, 100 * value / most) + "%";
      find(`[data-show=q-${side}]`).textContent = text(value, 3);
    });
    for (const { name, lines, top, svg } of charts) {
      line(svg.querySelector(".cursor"), x, -top, x, top);
      for (const what of Object.keys(lines)) {
        now[name + what[0].toUpperCase() + what.slice(1)] = lines[what][step];
        find(`[data-show=${name}-${what}]`).textContent = text(lines[what][step], 2);
      }
    }
    units.forEach(({ cursor }, k) => {
      line(cursor, x, 0, x, 1);
      find(`[data-show=unit-${k}]`).textContent = text(data.hidden[step][k], 2);
    });
    const rows = Math.ceil(data.steps / data.columns) - 1, row = Math.floor(step / data.columns);
    picture.style.backgroundPosition = `${100 * (step % data.columns) / (data.columns - 1)}% ${100 * row / rows}%`;
    const lean = data.angle[step] * 180 / Math.PI, where = text(data.position[step], 2);
    picture.setAttribute("aria-label", `What the agent sees: the cart at ${where} m, ` +
      `the pole ${text(Math.abs(lean), 1)} degrees to the ${lean < 0 ? "left" : "right"}`);
    find("[data-show=step]").textContent = step;
    slider.value = step;
    if (now.playing === "false") {
      const said = charts.map(({ name, lines }) =>
        `${name}: true velocity ${text(lines.truth[step], 2)}, read from memory ${text(lines.readout[step], 2)}`);
      const [left, right] = data.values[step].map((value) => text(value, 3));
      status.textContent = `Step ${step}: ${action} taken, Q-values ${left} left, ${right} right; ${said.join("; ")}.`;
    }
  }
  function run(playing) {
    clearInterval(timer);
    now.playing = playing;
    play.textContent = playing ? "Pause" : "Play";
    if (playing) {
      if (+now.step === last) show(0);
      timer = setInterval(() => (+now.step < last ? show(+now.step + 1) : run(false)), 1000 / speed.value);
    } else {
      show(+now.step);
    }
  }
  function go(step) {
    run(false);
    show(step);
  }
  play.addEventListener("click", () => run(now.playing !== "true"));
  find("[data-go=previous]").addEventListener("click", () => go(+now.step - 1));
  find("[data-go=next]").addEventListener("click", () => go(+now.step + 1));
  slider.addEventListener("input", () => go(+slider.value));
  speed.addEventListener("change", () => run(now.playing === "true"));
  check.addEventListener("change", () => box.classList.toggle("with-single", check.checked));
  box.addEventListener("keydown", (event) => {
    const target = event.target, to = { ArrowLeft: +now.step - 1, ArrowRight: +now.step + 1, Home: 0, End: last }[event.key];
    if (event.altKey || event.ctrlKey || event.metaKey || target === speed) return;
    if (event.key === " " && target.tagName !== "BUTTON" && target !== check) run(now.playing !== "true");
    else if (to !== undefined) go(to);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  picture.style.backgroundImage = `url("${now.pictures}")`;
  picture.style.backgroundSize = `${100 * data.columns}%`;
  now.live = "";
  now.playing = false;
  find(".player-live").hidden = false;
  show(0);
  status.textContent = "";
}

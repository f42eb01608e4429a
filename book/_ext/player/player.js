for (const box of document.querySelectorAll(".player:not([data-live])")) {
  const data = JSON.parse(box.parentNode.querySelector(".player-data").textContent);
  const last = data.steps - 1, span = 100, now = box.dataset;
  const { sides, text, values } = recdqnValues;
  const find = (what) => box.querySelector(what), all = (what) => [...box.querySelectorAll(what)];
  const slider = find("input[type=range]"), play = find("[data-go=play]");
  const status = find("[role=status]"), speed = find("select"), check = find("input[type=checkbox]");
  const difference = ([left, right]) => right - left;
  const rows = Math.ceil((data.steps + data.wiped.steps) / data.columns) - 1;
  const most = Math.max(...[data, data.wiped].flatMap((played) => played.values.map(difference)).map(Math.abs));
  const agents = [["kept", data, 0], ["wiped", data.wiped, data.steps]].map(([name, played, offset]) => {
    const part = find(`[data-agent=${name}]`);
    const names = ["left", "right", "difference"].map((what) => `${name}-${what}`);
    return { played, offset, part, showValues: values(part, names, most) };
  });
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
  let from = -1, timer = 0, end = last;

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
  function showAgent({ played, offset, part, showValues }, step) {
    const at = Math.min(step, played.steps - 1), cell = offset + at, over = step >= played.steps;
    showValues(played.values[at], over ? null : played.actions[at]);
    part.classList.toggle("over", over);
    part.querySelector(".player-state").textContent =
      over ? `fell after ${played.steps} steps` : `goes ${sides[played.actions[at]]}`;
    const picture = part.querySelector(".player-picture"), lean = played.angle[at] * 180 / Math.PI;
    picture.style.backgroundPosition =
      `${100 * (cell % data.columns) / (data.columns - 1)}% ${100 * Math.floor(cell / data.columns) / rows}%`;
    picture.setAttribute("aria-label", `What the agent sees: the cart at ${text(played.position[at], 2)} m, ` +
      `the pole ${text(Math.abs(lean), 1)} degrees to the ${lean < 0 ? "left" : "right"}`);
  }
  function show(step) {
    now.step = step = Math.max(0, Math.min(last, step));
    if (Math.floor(step / span) * span !== from) draw(Math.floor(step / span) * span);
    const x = step - from + 0.5, action = sides[data.actions[step]];
    now.action = action;
    [now.qLeft, now.qRight] = data.values[step];
    agents.forEach((agent) => showAgent(agent, step));
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
    find("[data-show=step]").textContent = step;
    slider.value = step;
    if (now.playing === "false") {
      const said = charts.map(({ name, lines }) =>
        `${name}: true velocity ${text(lines.truth[step], 2)}, read from memory ${text(lines.readout[step], 2)}`);
      const [left, right] = data.values[step].map((value) => text(value, 3));
      status.textContent = `Step ${step}: ${action} taken, Q-values ${left} left, ${right} right; ${said.join("; ")}.`;
    }
  }
  function run(playing, until = last) {
    clearInterval(timer);
    end = until;
    now.playing = playing;
    play.textContent = playing ? "Pause" : "Play";
    if (playing) {
      if (+now.step === last) show(0);
      timer = setInterval(() => (+now.step < end ? show(+now.step + 1) : run(false)), 1000 / speed.value);
    } else {
      show(+now.step);
    }
  }
  function go(step) {
    run(false);
    show(step);
  }
  for (const svg of all("svg")) {
    const follow = (event) => {
      if (!(event.buttons & 1)) return;
      const { left, width } = svg.getBoundingClientRect();
      go(from + Math.max(0, Math.min(span - 1, Math.floor((event.clientX - left) / width * span))));
    };
    svg.addEventListener("pointerdown", follow);
    svg.addEventListener("pointermove", follow);
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
  for (const picture of all(".player-picture")) {
    picture.style.backgroundImage = `url("${now.pictures}")`;
    picture.style.backgroundSize = `${100 * data.columns}%`;
  }
  now.live = "";
  now.playing = false;
  find(".player-live").hidden = false;
  show(0);
  status.textContent = "";
  // The first four seconds play at once, for readers who have not asked for less motion.
  if (matchMedia("(prefers-reduced-motion: no-preference)").matches) run(true, 60);
}

for (const box of document.querySelectorAll(".live:not([data-live])")) {
  const find = (what) => box.querySelector(what), now = box.dataset;
  const scene = find(".live-scene"), eye = find(".live-eye canvas"), units = find(".live-units");
  const chosen = find("select"), status = find("[role=status]"), play = find("[data-do=play]");
  const wiping = find("[data-set=wiping]"), slow = find("[data-set=slow]");
  const shown = Object.fromEntries([...box.querySelectorAll("[data-show]")].map((part) => [part.dataset.show, part]));
  const { sides, text, put, values } = recdqnValues;
  const sees = find(".live-eye p"), showValues = values(box, ["left", "right", "difference"], 1 / 30);
  const speeds = ["cart", "pole"].map((name) => ["true", "guess"].map((which) => find(`[data-of=${name}] .live-${which}`)));
  const image = new ImageData(84, 84), shades = new Uint32Array(image.data.buffer);
  const loading = {};
  const HIDDEN = 25, WAIT = 60, PUSH = 0.7;  // steps, steps, radians a second
  let net, world, picture, state, seen, colours = {};
  let steps = 0, longest = 0, falls = 0, hidden = 0, down = 0, force = 0, frame = 0, before = 0, due = 0, drawn = 0;

  // Files are scripts, not modules or JSON, so that a page opened from the disk can load them too.
  function load(file) {
    return loading[file] ??= new Promise((done, fail) => {
      const script = document.createElement("script");
      Object.assign(script, { src: `${now.files}${file}.js`, onload: done, onerror: fail });
      document.head.append(script);
    });
  }
  async function use(name) {
    await Promise.all([load("network"), load("cartpole")]);
    await load(chosen.querySelector(`[value=${name}]`).dataset.file);
    if (chosen.value !== name) return;  // the reader has chosen another one in the meantime
    world = recdqnCartPole;
    picture ??= new world.Picture();
    net = recdqnAgents.open(name);
    now.loaded = name;
    wiping.disabled = !net.h.length;
    find("[data-do=wipe]").setAttribute("aria-disabled", !net.h.length);
    find(".live-size").textContent = net.h.length;
    eye.hidden = !net.pixels;
    look();
    longest = falls = 0;
    again();
  }
  function again() {
    state = world.start();
    net.wipe();
    steps = down = hidden = force = 0;
    act();
    draw();
  }
  // Let the agent see the state and compute its Q-values.
  function act() {
    if (wiping.checked) net.wipe();
    if (net.pixels) {
      seen = picture.draw(state);
      if (hidden) seen = seen.map(() => 255);
    } else seen = hidden ? [0, 0] : [state[0], state[2]];
    net.step(seen);
  }
  function advance() {
    if (down) {
      if (!--down) again();
      return;
    }
    state = world.step(state, net.values[1] > net.values[0]);
    state[3] += force;
    force = 0;
    longest = Math.max(longest, ++steps);
    if (world.fallen(state)) {
      falls++;
      down = WAIT;
      status.textContent = `The pole fell after ${steps} steps.`;
    } else act();
    hidden = Math.max(0, hidden - 1);
  }

  function look() {
    const style = getComputedStyle(box);
    for (const name of ["--warm", "--cool", "--pst-color-text-base"]) colours[name] = style.getPropertyValue(name);
  }
  function draw() {
    drawScene();
    drawEye();
    drawUnits();
    if (now.playing !== "true" || ++drawn % 5 === 0) write();  // numbers that change faster cannot be read
  }
  function drawScene() {
    const paint = scene.getContext("2d"), [x, , angle] = state, middle = 300 + x * 125, floor = 205;
    paint.clearRect(0, 0, 600, 240);
    paint.fillStyle = colours["--pst-color-text-base"];
    paint.fillRect(0, floor, 600, 2);
    paint.fillRect(middle - 30, floor - 15, 60, 30);
    paint.save();
    paint.translate(middle, floor - 10);
    paint.rotate(angle);
    paint.fillStyle = colours["--warm"];
    paint.fillRect(-6, -170, 12, 176);
    paint.restore();
    paint.fillStyle = colours["--cool"];
    paint.beginPath();
    paint.arc(middle, floor - 10, 6, 0, 7);
    paint.fill();
  }
  function drawEye() {
    if (!net.pixels) return;
    for (let k = 0; k < shades.length; k++) shades[k] = 0xff000000 + seen[k] * 0x010101;
    eye.getContext("2d").putImageData(image, 0, 0);
  }
  function drawUnits() {
    const paint = units.getContext("2d");
    paint.clearRect(0, 0, 32, 2);
    net.h.forEach((value, k) => {
      paint.globalAlpha = Math.min(1, Math.abs(value));
      paint.fillStyle = colours[value < 0 ? "--cool" : "--warm"];
      paint.fillRect(k % 32, Math.floor(k / 32), 1, 1);
    });
  }
  function write() {
    const [x, , angle] = state, [left, right] = net.values, taken = Number(right > left), read = net.readout();
    const lean = `${text(Math.abs(angle) * 180 / Math.PI, 1)} degrees to the ${angle < 0 ? "left" : "right"}`;
    const place = `position ${text(x, 2)}\u00a0m, angle ${text(angle, 3)}\u00a0rad`;
    scene.setAttribute("aria-label", `Cart at ${text(x, 2)} m, pole ${lean}`);
    put(sees, hidden ? "sees nothing" : net.pixels ? "sees this picture" : `sees ${place}`);
    Object.assign(now, { steps, falls, qLeft: left, qRight: right, action: sides[taken] });
    now.seen = hidden ? "hidden" : "shown";
    put(shown.seconds, text(steps * world.SECONDS, 1));
    for (const [name, value] of Object.entries({ steps, longest, falls })) put(shown[name], String(value));
    showValues(net.values, taken);
    ["cart", "pole"].forEach((name, k) => {
      const at = (value) => `calc(${Math.max(0, Math.min(100, 50 + value * 25))}% - 1px)`;
      const [mark, guess] = speeds[k], truth = state[2 * k + 1];
      mark.style.left = at(truth);
      guess.style.left = at(read ? read[k] : 0);
      guess.hidden = !read;
      put(shown[`${name}-truth`], text(truth, 2));
      put(shown[`${name}-readout`], read ? text(read[k], 2) : "–");
    });
  }

  function tick(time) {
    frame = requestAnimationFrame(tick);
    due += (time - (before || time)) / 1000 / world.SECONDS / (slow.checked ? 4 : 1);
    due = Math.min(due, 2);  // a slow device shows the pole slower, and not in jumps
    before = time;
    if (due < 1) return;
    for (; due >= 1; due--) advance();
    draw();
  }
  function run(playing) {
    cancelAnimationFrame(frame);
    before = due = 0;
    now.playing = playing;
    play.textContent = playing ? "Pause" : "Play";
    if (playing) frame = requestAnimationFrame(tick);
  }

  let wanted = matchMedia("(prefers-reduced-motion: no-preference)").matches;
  const commands = {
    play: () => run(wanted = now.playing !== "true"),
    left: () => { force -= PUSH; },
    right: () => { force += PUSH; },
    hide: () => { hidden = HIDDEN; },
    wipe: () => net.wipe(),
    again,
  };
  const said = {
    left: "Pushed to the left.", right: "Pushed to the right.", hide: "The agent sees nothing for half a second.",
    wipe: "Memory wiped.", again: "A new start.",
  };
  function command(name) {
    if (!net) return;
    commands[name]();
    if (name === "play") return;
    status.textContent = said[name];
    if (now.playing !== "true" && name !== "again") {  // one step, to show the effect
      advance();
      draw();
    }
  }
  box.addEventListener("click", (event) => {
    const name = event.target.closest("[data-do]")?.dataset.do;
    if (name) command(name);
  });
  chosen.addEventListener("change", () => use(chosen.value));
  box.addEventListener("keydown", (event) => {
    const { target, key } = event, name = { ArrowLeft: "left", ArrowRight: "right", h: "hide", w: "wipe", " ": "play" }[key];
    if (!name || event.altKey || event.ctrlKey || event.metaKey || target === chosen) return;
    if (key === " " && ["BUTTON", "INPUT", "SUMMARY"].includes(target.tagName)) return;
    command(name);
    event.preventDefault();
    event.stopPropagation();
  });

  // Styles are read when the theme changes, and not for each frame.
  new MutationObserver(() => {
    look();
    if (net) draw();
  }).observe(document.documentElement, { attributeFilter: ["data-theme"] });

  // Load on sight, and move only on sight: at once for readers who have not asked for less motion.
  let sight = false;
  new IntersectionObserver(async ([entry]) => {
    sight = entry.isIntersecting;
    if (sight && !now.loaded) await use(chosen.value);
    if (net && sight && wanted) run(true);
    else if (!sight) run(false);
  }).observe(box);
  now.live = "";
  now.playing = false;
}

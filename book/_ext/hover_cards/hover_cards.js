/* Shows the card of a link (a glossary term, a name of an API) on hover and on keyboard focus. It stays while the
   pointer is on the link or on the card, and Escape closes it. Without this script the links are just links. */
(() => {
  const LINK = 'a[aria-describedby^="card-"]';
  let open = null;
  let timer = 0;

  function hide() {
    if (open) open.hidden = true;
    open = null;
  }

  function show(link) {
    hide();
    const card = document.getElementById(link.getAttribute("aria-describedby"));
    if (!card) return;
    open = card;
    card.hidden = false;
    const at = link.getClientRects()[0];
    const room = document.documentElement.clientWidth - card.offsetWidth - 8;
    const below = at.bottom + card.offsetHeight + 8 < window.innerHeight || at.top < card.offsetHeight;
    card.style.left = `${window.scrollX + Math.max(8, Math.min(at.left, room))}px`;
    card.style.top = `${window.scrollY + (below ? at.bottom + 2 : at.top - card.offsetHeight - 2)}px`;
  }

  document.addEventListener("mouseover", (event) => {
    clearTimeout(timer);
    const over = event.target.closest(`${LINK}, .hover-card`);
    const focused = document.activeElement.getAttribute("aria-describedby");
    if (!over && open && open.id !== focused) timer = setTimeout(hide, 250);
    else if (over && over.matches(LINK)) timer = setTimeout(show, 200, over);
  });
  document.addEventListener("focusin", (event) => {
    const link = event.target.closest(LINK);
    if (link && link.matches(":focus-visible")) show(link);
    else hide();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hide();
  });
})();

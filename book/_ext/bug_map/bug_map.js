// Shows the symptoms that contain every word of the search field.
for (const map of document.querySelectorAll(".bug-map")) {
  const field = map.querySelector("input"), found = map.querySelector(".bug-map-found");
  const items = [...map.querySelectorAll(".bug-map-symptoms li")];
  map.querySelector(".bug-map-filter").hidden = false;
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const item of items) item.hidden = !words.every((word) => item.textContent.toLowerCase().includes(word));
    const left = items.filter((item) => !item.hidden).length;
    found.textContent = left ? "" : "No symptom has all of these words. Try fewer, or run diagnose.";
  });
}

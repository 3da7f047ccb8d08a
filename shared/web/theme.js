// Light or dark before anything is painted. A classic script: a module would come after the first paint.
//
// The choice is kept as `tailrace.theme`: "light", "dark", or nothing, which is what the system says.
{
  let chosen = null;
  try {
    chosen = localStorage.getItem("tailrace.theme");
  } catch {
    // storage may be forbidden; then the system decides
  }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
}

// The field of the password.
document.querySelector("#login").addEventListener("submit", async (event) => {
  event.preventDefault();
  const password = document.querySelector("#password").value;
  const answer = await fetch("/login", { method: "POST", body: JSON.stringify({ password }) });
  if (answer.ok) {
    location.replace("/");
    return;
  }
  const { error } = await answer.json();
  const shown = document.querySelector("#error");
  shown.textContent = `${error.found}. ${error.fix}.`;
  shown.hidden = false;
});

(() => {
	// What a click on our own HTML means is written on the button; the page's code hears "act".
	const sure = (button) => {
		if (!button.dataset.sure || button.dataset.asked) return true;
		const text = button.textContent;
		button.dataset.asked = "1";
		button.textContent = button.dataset.sure;
		setTimeout(() => {
			delete button.dataset.asked;
			button.textContent = text;
		}, 4000);
		return false;
	};

	const copy = async (button) => {
		const source = document.getElementById(button.dataset.copy);
		const text = source ? source.textContent : "";
		try {
			await navigator.clipboard.writeText(text);
		} catch {
			const range = document.createRange();
			range.selectNodeContents(source);
			const selection = window.getSelection();
			selection.removeAllRanges();
			selection.addRange(range);
		}
		button.classList.add("rv-copied");
		setTimeout(() => button.classList.remove("rv-copied"), 1500);
	};

	const prompt = (text) => {
		const field = document.querySelector("#field-prompt textarea");
		if (!field) return;
		field.value = text;
		field.dispatchEvent(new Event("input", { bubbles: true }));
		field.focus();
	};

	const dark = () => {
		const on = document.body.classList.toggle("dark");
		try {
			localStorage.setItem("recurvid-dark", on ? "1" : "0");
		} catch {}
	};
	try {
		const kept = localStorage.getItem("recurvid-dark");
		if (kept) document.body.classList.toggle("dark", kept === "1");
	} catch {}

	document.documentElement.lang = navigator.language || "en";
	window.recurvidPanel = (element, trigger) => {
		element.addEventListener("click", (event) => {
			const button = event.target.closest("button[data-do], button[data-copy], button[data-prompt], button[data-dark]");
			if (!button || button.disabled) return;
			if (button.dataset.dark) return void dark();
			if (button.dataset.copy) return void copy(button);
			if (button.dataset.prompt) return void prompt(button.dataset.prompt);
			if (sure(button)) trigger("act", { do: button.dataset.do, id: button.dataset.id || "" });
		});
		// The video so far is replaced by a longer one while somebody watches it. Most orders grow
		// at the front, so the place is kept as seen from the end.
		element.addEventListener("timeupdate", (e) => (e.target.rvLeft = e.target.duration - e.target.currentTime), true);
		element.addEventListener("pause", (e) => (e.target.rvHeld = e.target.currentTime < e.target.duration - 0.1), true);
		element.addEventListener("play", (e) => (e.target.rvHeld = false), true);
		element.addEventListener(
			"loadedmetadata",
			(e) => {
				const video = e.target;
				if (video.rvLeft > 0 && video.rvLeft < video.duration) video.currentTime = video.duration - video.rvLeft;
				if (video.rvHeld) video.pause();
			},
			true
		);
	};
})();

(() => {
	// What a click on our own HTML means is written on the button; the page's code hears "act".
	// Deleting asks once more. What was asked is remembered by job: a list that is drawn anew
	// meanwhile must not pass the question on to its neighbour.
	let asked = { id: null, until: 0 };
	const sure = (button, meant) => {
		if (!meant.sure) return true;
		if (asked.id === meant.id && Date.now() < asked.until) {
			asked.id = null;
			return true;
		}
		asked = { id: meant.id, until: Date.now() + 5000 };
		if (button.dataset.id !== meant.id) return false;
		const label = button.querySelector("span");
		const text = label.textContent;
		button.dataset.asked = "1";
		label.textContent = meant.sure;
		setTimeout(() => {
			delete button.dataset.asked;
			if (label.textContent === meant.sure) label.textContent = text;
		}, 5000);
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

	// A video that is dropped anywhere goes to the place where settings are read from videos.
	const isVideo = (event) => [...(event.dataTransfer?.items || [])].some((item) => item.kind === "file" && item.type.startsWith("video/"));
	const found = async (selector) => {
		for (let tries = 0; tries < 50; tries++) {
			const element = document.querySelector(selector);
			if (element) return element;
			await new Promise((resolve) => setTimeout(resolve, 100));
		}
	};
	const hand = (file, input) => {
		const kept = new DataTransfer();
		kept.items.add(file);
		input.files = kept.files;
		input.dispatchEvent(new Event("change", { bubbles: true }));
	};
	const create = () => document.querySelector("[role=tab]")?.click();
	const replay = async (files) => {
		create();
		if (!document.querySelector("#replay")) (await found("#presets-drawer > button"))?.click();
		const input = await found("#replay input[type=file]");
		if (input) hand(files[0], input);
	};
	// A picture that is pasted anywhere is the start picture, and in the box of the last one, the
	// last. Text that comes with a picture (out of a word processor) is text where one can write.
	const paste = (event) => {
		const file = [...(event.clipboardData?.files || [])].find((item) => item.type.startsWith("image/"));
		const writes = event.target.closest?.("textarea, input") && event.clipboardData.types.includes("text/plain");
		const box = event.target.closest?.("#end-picture") || document.querySelector("#picture");
		const input = box?.querySelector("input[type=file]");
		if (!file || writes || !input) return;
		event.preventDefault();
		create();
		hand(file, input);
	};
	if (!window.recurvidPanel) {
		document.addEventListener("paste", paste);
		document.addEventListener("dragover", (event) => isVideo(event) && event.preventDefault(), true);
		document.addEventListener(
			"drop",
			(event) => {
				if (!isVideo(event)) return;
				event.preventDefault();
				event.stopPropagation();
				replay([...event.dataTransfer.files]);
			},
			true
		);
	}

	// On a phone the stage lies below the form: whoever presses Generate wants to see it.
	if (!window.recurvidPanel) {
		document.addEventListener("click", (event) => {
			if (!event.target.closest?.("#generate")) return;
			const stage = document.querySelector("#stage");
			const gentle = matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth";
			if (stage && stage.getBoundingClientRect().top > innerHeight) setTimeout(() => stage.scrollIntoView({ behavior: gentle }), 400);
		});
	}

	const BUTTON = "button[data-do], button[data-copy], button[data-prompt], button[data-dark]";
	const act = (button, meant, trigger) => {
		if (meant.dark) return void dark();
		if (meant.copy) return void copy(button);
		if (meant.prompt) return void prompt(meant.prompt);
		if (sure(button, meant)) trigger("act", { do: meant.do, id: meant.id || "" });
	};

	// A panel is drawn anew at any moment, also between the press and the release of a button: then
	// what was pressed may belong to another job by now, or be another element. What counts is what
	// the button said when it was pressed; to think better of it, one moves away.
	const STILL = 12; // pixels
	const presses = (element, work) => {
		let press = null;
		const release = (event, target) => {
			const pressed = press;
			press = null;
			const button = target?.closest?.(BUTTON);
			if (!pressed) return button && work(button, button.dataset);
			const moved = Math.hypot(event.clientX - pressed.x, event.clientY - pressed.y);
			if (button === pressed.button || moved < STILL) work(pressed.button, pressed.meant);
		};
		element.addEventListener("pointerdown", (event) => {
			const button = event.isPrimary && event.button === 0 && event.target.closest(BUTTON);
			press = button ? { button, meant: { ...button.dataset }, x: event.clientX, y: event.clientY } : null;
		});
		element.addEventListener("pointercancel", () => (press = null));
		element.addEventListener("click", (event) => {
			if (event.detail === 0) press = null; // the keyboard presses nothing
			release(event, event.target);
		});
		// What has gone gets no click, and its panel may have shrunk away from under the pointer.
		document.addEventListener("pointerup", (event) => {
			const pressed = press;
			if (pressed && !pressed.button.isConnected) setTimeout(() => press === pressed && release(event, event.target));
		});
	};

	document.documentElement.lang = navigator.language || "en";
	window.recurvidPanel = (element, trigger) => {
		element.dataset.ready = "1";
		presses(element, (button, meant) => act(button, meant, trigger));
		// The video so far is replaced by a longer one while somebody watches it. The inverted order
		// grows at the front, so there the place is kept as seen from the end.
		const jobOf = (video) => video.src.split("/media/")[1]?.split("/")[0];
		const on = (name, what) => element.addEventListener(name, (event) => what(event.target), true);
		on("timeupdate", (video) => {
			video.rvJob = jobOf(video);
			video.rvFromStart = video.currentTime;
			video.rvFromEnd = video.duration - video.currentTime;
		});
		on("pause", (video) => (video.rvHeld = video.currentTime < video.duration - 0.1));
		on("play", (video) => (video.rvHeld = false));
		on("loadedmetadata", (video) => {
			if (video.rvJob !== jobOf(video)) return;
			const place = video.dataset.grows === "front" ? video.duration - video.rvFromEnd : video.rvFromStart;
			if (place > 0 && place < video.duration) video.currentTime = place;
			if (video.rvHeld) video.pause();
		});
	};
})();

"""A word list: listed words are replaced in the prompt, and pictures of such prompts are flagged for the policy."""

import re

from conceptguard import Images, Method, Prompts, Refused, Settings, Verdict, hookimpl


class WordListSettings(Settings):
    """words: what must not be asked for; replacement: what stands in their place."""

    words: list[str]
    replacement: str = "flower"


class WordList(Method):
    """Pictures: replaces listed words in a prompt, and flags what was asked for with them.

    Embeddings without a known text are refused, because nobody can tell what they ask for.
    """

    name = "wordlist"
    needs = "nothing"
    Settings = WordListSettings

    def found(self, text: str) -> list[str]:
        return [w for w in self.settings.words if re.search(rf"\b{re.escape(w)}s?\b", text, re.IGNORECASE)]

    @hookimpl
    def encode_prompt(self, prompts: Prompts) -> None:
        for row, text in enumerate(prompts.texts):
            if text is None and prompts.branches[row] == "conditional":
                raise Refused("a word list cannot read prompt_embeds: give the prompt as text")
            for word in self.found(text or ""):
                text = re.sub(
                    rf"\b{re.escape(word)}(s?)\b", rf"{self.settings.replacement}\1", text, flags=re.IGNORECASE
                )
                prompts.rewrite(row, text)
                self.act.notes.append(f"'{word}' became '{self.settings.replacement}'")

    @hookimpl
    def check_image(self, images: Images) -> None:
        for i, text in enumerate(images.prompts):
            images.verdicts += [Verdict(i, self.name, word, 1.0, True) for word in self.found(text or "")]

//! Writes the demo's articles from the phrase books, and spoils copies of them.

use super::dice::Dice;
use super::languages::{COMPANIES, EMOJI, Language, Topic};

/// An article whose sentences can still be told apart, so that a copy can be edited.
#[derive(Clone)]
pub struct Article {
    pub title: String,
    blocks: Vec<Block>,
    /// Stands between two blocks: one line end, or two.
    gap: &'static str,
    scene: Scene,
}

#[derive(Clone)]
enum Block {
    /// A paragraph, as its sentences.
    Prose(Vec<String>),
    /// Lines of code or a table, as they are.
    Code(String),
}

/// Who and what an article is about: chosen once, so that its sentences fit together.
#[derive(Clone)]
struct Scene {
    language: &'static Language,
    topic: &'static Topic,
    thing: &'static str,
    other: &'static str,
    woman: &'static str,
    man: &'static str,
    company: &'static str,
    rival: &'static str,
    place: &'static str,
}

/// Numbers that take the genitive plural in Russian and the singular in Arabic.
const COUNTS: [usize; 15] = [11, 12, 14, 15, 16, 18, 19, 20, 25, 26, 30, 35, 40, 60, 80];

/// Code and tables; `@` stands for a number. Quotes, tabs, backslashes and angle brackets are what JSON and
/// HTML have to escape.
const SNIPPETS: [&str; 9] = [
    "fn checksum(bytes: &[u8]) -> u32 {\n\tbytes.iter().fold(@, |sum, &b| sum.rotate_left(5) ^ u32::from(b))\n}",
    "for attempt in range(@):\n    if fetch(\"https://api.example/v@\"):\n        break\n    time.sleep(2 ** attempt)",
    "$ grep -c '\"status\": @' access.log | tee \"/tmp/count-@.txt\"",
    "SELECT name, COUNT(*) AS total\n  FROM events\n WHERE seconds > @ AND note <> 'it''s fine'\n GROUP BY name;",
    "run\tseconds\terrors\n1\t@\t0\n2\t@\t1\n3\t@\t0",
    "set PATTERN=^\\d{@}-[A-Z]+$\nC:\\tools\\scan.exe \"%PATTERN%\" > report@.txt",
    "{\"model\": \"tiny\", \"layers\": @, \"dropout\": 0.@}",
    "if (count > @ && buffer[0] != '\\0')\n\treturn \"full\";",
    "size\tbefore\tafter\n≤ 1 KiB\t@ µs\t@ µs\n> 1 KiB\t@ µs\t@ µs",
];

/// Tokens of a page that was taken apart wrongly.
const SYMBOLS: [&str; 20] = [
    "||||",
    "####",
    "=>",
    "§§",
    "%&$",
    "~~~",
    "<<",
    "¤¤¤",
    "***",
    "::",
    "—–—",
    "[…]",
    "\\x",
    "{{}}",
    "@@",
    "^^^",
    "¬¬",
    "++",
    "►►",
    "____",
];

impl Article {
    /// An article of 60 to 400 words (or about as much in a script without spaces).
    pub fn write(language: &'static Language, domain: usize, dice: &mut Dice) -> Self {
        let scene = Scene::new(language, domain, dice);
        let target = 60 + dice.below(260).min(dice.below(320));
        let mut pool = scene.draw_sentences(dice);
        let closing = scene.say(dice.pick(language.closings), dice);
        let mut written = scene.measure(&closing);
        let mut sentences = Vec::new();
        while written < target
            && let Some(template) = pool.pop()
        {
            let sentence = scene.say(template, dice);
            written += scene.measure(&sentence);
            sentences.push(sentence);
        }
        sentences.push(closing);
        let mut blocks = into_paragraphs(sentences, dice);
        // A third of the articles show a few lines of code; never as the first or the last word.
        if blocks.len() > 1 && dice.chance(33) {
            let at = dice.between(1, blocks.len() - 1);
            let lead = scene.say(dice.pick(language.code_leads), dice);
            blocks.splice(at..at, [Block::Prose(vec![lead]), Block::Code(snippet(dice))]);
        }
        scene.into_article(blocks, dice)
    }

    /// A page that says too little to learn from.
    pub fn write_stub(language: &'static Language, domain: usize, dice: &mut Dice) -> Self {
        let scene = Scene::new(language, domain, dice);
        let first = scene.say(dice.pick(language.body), dice);
        let last = scene.say(dice.pick(language.closings), dice);
        scene.into_article(vec![Block::Prose(vec![first, last])], dice)
    }

    /// A page that says the same few sentences over and over.
    pub fn write_repetitive(language: &'static Language, domain: usize, dice: &mut Dice) -> Self {
        let scene = Scene::new(language, domain, dice);
        let mut pool = scene.draw_sentences(dice);
        pool.truncate(dice.between(2, 3));
        let refrain: Vec<String> = pool.iter().map(|template| scene.say(template, dice)).collect();
        let blocks = vec![Block::Prose(refrain); dice.between(5, 12)];
        scene.into_article(blocks, dice)
    }

    /// A page of signs: what is left of a table or a menu that nobody could read.
    pub fn write_symbol_soup(language: &'static Language, domain: usize, dice: &mut Dice) -> Self {
        let scene = Scene::new(language, domain, dice);
        let lines = (0..dice.between(6, 14)).map(|_| {
            let tokens = (0..dice.between(6, 12)).map(|_| match dice.below(4) {
                0 => format!("0x{:04x}", dice.below(0x1_0000)),
                1 => dice.below(10_000).to_string(),
                _ => dice.pick(&SYMBOLS).to_owned(),
            });
            tokens.collect::<Vec<_>>().join(" ")
        });
        let blocks = vec![Block::Code(lines.collect::<Vec<_>>().join("\n"))];
        scene.into_article(blocks, dice)
    }

    /// The text as extraction leaves it.
    pub fn text(&self) -> String {
        let blocks = self.blocks.iter().map(|block| match block {
            Block::Prose(sentences) => sentences.join(self.joiner()),
            Block::Code(code) => code.clone(),
        });
        blocks.collect::<Vec<_>>().join(self.gap)
    }

    /// The text as the web gives it: markup, character references, and the page around the article.
    pub fn html(&self, dice: &mut Dice) -> String {
        let mut page = String::new();
        if dice.chance(60) {
            page.push_str(
                "<nav><a href=\"/\">Home</a> | <a href=\"/news\">News</a> | <a href=\"/about\">About</a></nav>\n",
            );
        }
        if dice.chance(70) {
            page.push_str(&format!("<h1>{}</h1>\n", escape_html(&self.title)));
        }
        for block in &self.blocks {
            page.push_str(&match block {
                Block::Prose(sentences) => {
                    format!("<p>{}</p>\n", escape_html(&sentences.join(self.joiner())))
                }
                Block::Code(code) => format!("<pre><code>{}</code></pre>\n", escape_html(code)),
            });
        }
        if dice.chance(50) {
            page.push_str("<div class=\"share\">Share&nbsp;&middot; Print&nbsp;&middot; <b>Subscribe</b><br/></div>\n");
        }
        if dice.chance(40) {
            page.push_str(&format!(
                "<!-- rendered in {} ms --><script>track(\"p{}\");</script>",
                dice.pick(&COUNTS),
                dice.below(900)
            ));
        }
        page
    }

    /// A near copy: the same article with one or two small edits, as other sites print it.
    pub fn edited(&self, dice: &mut Dice) -> Self {
        let mut copy = self.clone();
        for _ in 0..dice.between(1, 2) {
            match dice.below(4) {
                0 => copy.add_note(dice),
                1 => copy.swap_sentences(dice),
                2 => copy.drop_sentence(dice),
                _ => copy.change_number(dice),
            }
        }
        copy
    }

    /// The ISO 639-1 code of its language.
    pub fn language(&self) -> &'static str {
        self.scene.language.code
    }

    /// What stands between two sentences.
    fn joiner(&self) -> &'static str {
        if self.scene.language.spaced { " " } else { "" }
    }

    /// Adds the line that a site puts under an article it prints again.
    fn add_note(&mut self, dice: &mut Dice) {
        let note = self.scene.say(dice.pick(self.scene.language.updates), dice);
        self.blocks.push(Block::Prose(vec![note]));
    }

    /// Swaps the first two sentences of a paragraph.
    fn swap_sentences(&mut self, dice: &mut Dice) {
        let mut longer: Vec<&mut Vec<String>> = self.paragraphs().filter(|p| p.len() > 1).collect();
        if !longer.is_empty() {
            let at = dice.below(longer.len());
            longer[at].swap(0, 1);
        }
    }

    /// Leaves out the last sentence of a paragraph, if the article is long enough not to miss it.
    fn drop_sentence(&mut self, dice: &mut Dice) {
        let mut paragraphs: Vec<&mut Vec<String>> = self.paragraphs().collect();
        let sentences: usize = paragraphs.iter().map(|p| p.len()).sum();
        let at = dice.below(paragraphs.len());
        if sentences >= 8 && paragraphs[at].len() > 1 {
            paragraphs[at].pop();
        }
    }

    /// Makes the first digit of some sentence another one.
    fn change_number(&mut self, dice: &mut Dice) {
        let mut counted: Vec<&mut String> =
            self.paragraphs().flatten().filter(|s| s.contains(|c: char| c.is_ascii_digit())).collect();
        if counted.is_empty() {
            return;
        }
        let at = dice.below(counted.len());
        let sentence = &mut counted[at];
        if let Some((i, digit)) = sentence.char_indices().find(|(_, c)| c.is_ascii_digit()) {
            let other = if digit == '3' { "4" } else { "3" };
            sentence.replace_range(i..=i, other);
        }
    }

    fn paragraphs(&mut self) -> impl Iterator<Item = &mut Vec<String>> {
        self.blocks.iter_mut().filter_map(|block| match block {
            Block::Prose(sentences) => Some(sentences),
            Block::Code(_) => None,
        })
    }
}

impl Scene {
    fn new(language: &'static Language, domain: usize, dice: &mut Dice) -> Self {
        let topic = &language.topics[domain];
        let [thing, other] = two_of(topic.things, dice);
        let [company, rival] = two_of(&COMPANIES, dice);
        Scene {
            language,
            topic,
            thing,
            other,
            woman: dice.pick(language.women),
            man: dice.pick(language.men),
            company,
            rival,
            place: dice.pick(language.places),
        }
    }

    /// The templates to write from, in reverse order: an opening, then what there is to say on the topic, a
    /// part of what can be said on any, and up to two quotes, all mixed.
    fn draw_sentences(&self, dice: &mut Dice) -> Vec<&'static str> {
        let mut body = self.language.body.to_vec();
        dice.shuffle(&mut body);
        body.truncate(body.len() * 3 / 5);
        let mut quotes = self.language.quotes.to_vec();
        dice.shuffle(&mut quotes);
        quotes.truncate(2);
        let mut pool = [self.topic.sentences, &body, &quotes].concat();
        dice.shuffle(&mut pool);
        pool.push(dice.pick(self.language.openings));
        pool
    }

    /// A template as a sentence: its choices made, its slots filled, its first letter a capital.
    fn say(&self, template: &str, dice: &mut Dice) -> String {
        let sentence = self.expand(template, dice);
        let mut letters = sentence.chars();
        match letters.next() {
            Some(first) => first.to_uppercase().chain(letters).collect(),
            None => sentence,
        }
    }

    /// Replaces `[a|b|c]` and `{slot}`. The templates are constants and a test expands them all, so a bracket
    /// without its partner can't happen here.
    fn expand(&self, template: &str, dice: &mut Dice) -> String {
        let mut out = String::new();
        let mut rest = template;
        while let Some(open) = rest.find(['[', '{']) {
            out.push_str(&rest[..open]);
            let is_choice = rest[open..].starts_with('[');
            let length = rest[open..].find(if is_choice { ']' } else { '}' }).expect("a template closes what it opens");
            let inner = &rest[open + 1..open + length];
            if is_choice {
                let choices: Vec<&str> = inner.split('|').collect();
                out.push_str(&self.expand(dice.pick(&choices), dice));
            } else {
                out.push_str(&self.fill(inner, dice));
            }
            rest = &rest[open + length + 1..];
        }
        out + rest
    }

    /// What a slot stands for.
    fn fill(&self, slot: &str, dice: &mut Dice) -> String {
        match slot {
            "thing" => self.thing.to_owned(),
            "other" => self.other.to_owned(),
            "woman" => self.woman.to_owned(),
            "man" => self.man.to_owned(),
            "company" => self.company.to_owned(),
            "rival" => self.rival.to_owned(),
            "place" => self.place.to_owned(),
            "n" => dice.pick(&COUNTS).to_string(),
            "big" => format!("{}{}{}00", dice.between(1, 97), self.language.group, dice.between(1, 9)),
            "pct" => format!("{}{}", dice.between(4, 88), self.language.percent),
            "year" => dice.between(2008, 2023).to_string(),
            "ver" => format!("{}.{}", dice.between(1, 9), dice.below(15)),
            "emoji" => dice.pick(&EMOJI).to_owned(),
            _ => unreachable!("no template has a slot {slot:?}"),
        }
    }

    /// The length of a sentence in words; two characters count as one where no spaces stand between words.
    fn measure(&self, sentence: &str) -> usize {
        if self.language.spaced { super::word_count(sentence) } else { sentence.chars().count() / 2 }
    }

    fn into_article(self, blocks: Vec<Block>, dice: &mut Dice) -> Article {
        let title = self.say(dice.pick(self.language.titles), dice);
        let gap = if dice.chance(50) { "\n" } else { "\n\n" };
        Article { title, blocks, gap, scene: self }
    }
}

/// A page that has no text to extract: what stands in its `text`, and its title.
pub fn boilerplate(dice: &mut Dice) -> (String, String) {
    let number = dice.between(1000, 9999);
    let (text, title) = match dice.below(8) {
        0 => (String::new(), "Untitled"),
        1 => (" \n\t\n ".repeat(dice.between(1, 4)), "Untitled"),
        2 => (format!("<html><body><h1>404</h1><p>Page {number} not found.</p></body></html>"), "404 Not Found"),
        3 => (
            format!(
                "<nav><ul><li>Home</li><li>Archive {number}</li><li>Contact</li></ul></nav><footer>&copy; {}</footer>",
                dice.between(2009, 2024)
            ),
            "Home",
        ),
        4 => (
            format!(
                "<div id=\"cookies\">We use cookies &amp; {} partners. <button>Accept</button> <button>Settings</button></div>",
                number / 10
            ),
            "Your privacy",
        ),
        5 => (
            format!(
                "<noscript>Please enable JavaScript to continue.</noscript><script src=\"/app.{number:x}.js\"></script>"
            ),
            "Loading…",
        ),
        6 => (
            format!(
                "<form action=\"/login?next={number}\"><label>User</label><input/><label>Password</label><input/></form>"
            ),
            "Sign in",
        ),
        _ => (
            format!(
                "<meta http-equiv=\"refresh\" content=\"0; url=/new/{number}\"/><img src=\"/pixel.gif?{number}\"/>"
            ),
            "Redirecting",
        ),
    };
    (text, title.to_owned())
}

/// Two different items.
fn two_of<T: Copy>(items: &[T], dice: &mut Dice) -> [T; 2] {
    let first = dice.below(items.len());
    let second = (first + dice.between(1, items.len() - 1)) % items.len();
    [items[first], items[second]]
}

/// Groups sentences into paragraphs of two to four.
fn into_paragraphs(mut sentences: Vec<String>, dice: &mut Dice) -> Vec<Block> {
    let mut blocks = Vec::new();
    while !sentences.is_empty() {
        let length = dice.between(2, 4).min(sentences.len());
        blocks.push(Block::Prose(sentences.drain(..length).collect()));
    }
    blocks
}

/// A piece of code with its numbers filled in.
fn snippet(dice: &mut Dice) -> String {
    let mut out = String::new();
    for part in dice.pick(&SNIPPETS).split_inclusive('@') {
        match part.strip_suffix('@') {
            Some(before) => out.push_str(&format!("{before}{}", dice.between(2, 512))),
            None => out.push_str(part),
        }
    }
    out
}

/// Text as it stands in HTML.
fn escape_html(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('\u{a0}', "&nbsp;")
}

#[cfg(test)]
mod tests {
    use super::super::languages::{DOMAINS, LANGUAGES};
    use super::*;

    /// Every template of a language.
    fn templates(language: &Language) -> Vec<&'static str> {
        let topics = language.topics.iter().flat_map(|topic| topic.sentences);
        let rest = [
            language.titles,
            language.openings,
            language.body,
            language.quotes,
            language.code_leads,
            language.closings,
            language.updates,
        ];
        topics.chain(rest.into_iter().flatten()).copied().collect()
    }

    #[test]
    fn every_template_expands_without_leftovers() {
        let mut dice = Dice::new(1);
        for language in LANGUAGES {
            for template in templates(language) {
                assert_eq!(template.matches('[').count(), template.matches(']').count(), "{template}");
                assert_eq!(template.matches('{').count(), template.matches('}').count(), "{template}");
                for _ in 0..50 {
                    let domain = dice.below(DOMAINS.len());
                    let sentence = Scene::new(language, domain, &mut dice).say(template, &mut dice);
                    assert!(!sentence.contains(['[', ']', '{', '}', '|']), "{sentence}");
                    assert!(!sentence.contains("  "), "{sentence}");
                }
            }
        }
    }

    #[test]
    fn html_escapes_what_markup_would_swallow() {
        assert_eq!(escape_html("a < b && c"), "a &lt; b &amp;&amp; c");
    }

    #[test]
    fn an_edit_changes_little() {
        for stream in 0..50 {
            let mut dice = Dice::new(stream);
            let article = Article::write(LANGUAGES[stream as usize % LANGUAGES.len()], 0, &mut dice);
            let mut copy = article.clone();
            copy.add_note(&mut dice);
            assert!(copy.text().starts_with(&article.text()));
            copy = article.clone();
            copy.change_number(&mut dice);
            assert_eq!(copy.text().chars().count(), article.text().chars().count());
        }
    }
}

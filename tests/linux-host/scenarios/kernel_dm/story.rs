//! A story: its steps, and in what the two are known to differ.

/// One line of a story, with what is known of it.
pub struct Step {
    /// Story and line, for messages.
    pub place: String,
    /// The words; a quoted one may have blanks in it, and `\n` for line ends.
    pub words: Vec<String>,
    /// How the two differ here, if they do.
    difference: Option<Difference>,
}

/// A known difference at one step.
#[derive(Default)]
struct Difference {
    linux: String,
    polldm: String,
    why: String,
}

/// The steps of a story.
pub struct Story {
    /// The steps, in their order.
    pub steps: Vec<Step>,
}

impl Story {
    /// Reads the text of a story.
    pub fn read(name: &str, text: &str) -> Result<Story, String> {
        let mut steps: Vec<Step> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let place = format!("{name}.txt:{}: {line}", index + 1);
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if !line.starts_with(' ') {
                steps.push(Step {
                    words: split(line).map_err(|e| format!("{place}: {e}"))?,
                    place,
                    difference: None,
                });
                continue;
            }
            let step = steps
                .last_mut()
                .ok_or(format!("{place}: there is no step"))?;
            let difference = step.difference.get_or_insert_default();
            let (key, value) = line
                .trim()
                .split_once(": ")
                .ok_or(format!("{place}: it is not `key: value`"))?;
            let place_of_value = match key {
                "linux" => &mut difference.linux,
                "polldm" => &mut difference.polldm,
                "why" => &mut difference.why,
                _ => return Err(format!("{place}: there are linux, polldm and why")),
            };
            *place_of_value = value.to_owned();
        }
        Ok(Story { steps })
    }

    /// The differences for which there is no such heading in the document.
    pub fn unexplained(&self, document: &str) -> Vec<String> {
        let explained = |why: &str| {
            document.lines().any(|line| {
                line.strip_prefix("## ")
                    .is_some_and(|heading| heading == why)
            })
        };
        self.steps
            .iter()
            .filter(|step| {
                step.difference
                    .as_ref()
                    .is_some_and(|difference| !explained(&difference.why))
            })
            .map(|step| format!("{}\n    no heading explains this difference", step.place))
            .collect()
    }

    /// The steps at which the two did not do what the story says.
    pub fn compare(&self, linux: &[String], polldm: &[String]) -> Vec<String> {
        let mut wrong = Vec::new();
        for ((step, linux), polldm) in self.steps.iter().zip(linux).zip(polldm) {
            let right = match &step.difference {
                None => linux == polldm,
                Some(known) => *linux == known.linux && *polldm == known.polldm,
            };
            // What is the same for both has no place in the list of differences.
            if !right || (step.difference.is_some() && linux == polldm) {
                wrong.push(format!(
                    "{}\n    linux: {linux}\n    polldm: {polldm}",
                    step.place
                ));
            }
        }
        wrong
    }
}

impl Step {
    /// What the step printed, as it is compared: no blanks at the ends of lines, no empty lines, lines joined, `ok` for nothing. The devices beneath a device have no
    /// order.
    pub fn shown(&self, output: &str) -> String {
        let mut lines: Vec<String> = output
            .lines()
            .map(|line| line.trim().to_owned())
            .filter(|line| !line.is_empty())
            .collect();
        if self.words[0] == "deps" {
            for line in &mut lines {
                let mut words: Vec<&str> = line.split_whitespace().collect();
                words.sort_unstable_by_key(|word| word.starts_with('(').then_some(*word));
                *line = words.join(" ");
            }
        }
        match lines.is_empty() {
            true => "ok".to_owned(),
            false => lines.join(" / "),
        }
    }
}

/// The words of a line; `'…'` is one.
fn split(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    for (index, part) in line.split('\'').enumerate() {
        match index % 2 {
            0 => words.extend(part.split_whitespace().map(str::to_owned)),
            _ => words.push(part.replace("\\n", "\n")),
        }
    }
    match line.matches('\'').count() % 2 {
        0 => Ok(words),
        _ => Err("a quotation mark is missing".into()),
    }
}

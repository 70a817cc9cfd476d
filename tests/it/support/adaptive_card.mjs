// Parses the card in a request, as `leadsbotd --json preview` prints it on standard input, with Microsoft's own library, found in the folder
// that is the one argument. Exits with a sentence when that finds anything to say about it, or reads less than was written.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const require = createRequire(`${process.argv[2]}/`);
const { AdaptiveCard, SerializationContext, Versions } = require('adaptivecards/dist/adaptivecards.js');

const message = JSON.parse(JSON.parse(readFileSync(0, 'utf8')).request.body);
for (const attachment of message.attachments) {
  const context = new SerializationContext(Versions.v1_4);
  const card = new AdaptiveCard();
  card.parse(attachment.content, context);
  if (context.eventCount > 0) {
    throw new Error(`the card is not understood: ${context.getEventAt(0).message}`);
  }
  if (card.getItemCount() !== attachment.content.body.length) {
    throw new Error(`of ${attachment.content.body.length} parts the library reads ${card.getItemCount()}`);
  }
}
